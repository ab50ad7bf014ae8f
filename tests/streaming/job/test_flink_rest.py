from __future__ import annotations

import contextlib
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deploy.local.cluster_identity import make_identity
from streaming.job.flink_rest import Checkpoints, FlinkRest, FlinkUnavailable
from streaming.job.flink_tls import FlinkTls

JOB = "a" * 32
TRACE = """org.apache.flink.runtime.JobException: Recovery is suppressed
\tat org.apache.flink.Some.method(Some.java:1)
Caused by: java.io.IOException: could not write
\tat org.apache.flink.Other.method(Other.java:2)
Caused by: java.lang.IllegalStateException: the disk is full
\t... 3 more
"""


@pytest.fixture
def answers():
    return {}


@pytest.fixture
def flink(answers):
    class Handler(BaseHTTPRequestHandler):
        def _answer(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = answers.get(f"{self.command} {self.path}")
            if isinstance(body, list) and body and isinstance(body[0], tuple):
                body = body.pop(0)[0]
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        do_GET = do_POST = do_PATCH = _answer

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = FlinkRest(f"127.0.0.1:{server.server_port}", FlinkTls())
    yield client
    client.close()
    server.shutdown()
    server.server_close()


def test_jobs_of_a_name_come_newest_first(flink, answers):
    answers["GET /jobs/overview"] = {
        "jobs": [
            {"jid": "old", "name": "x", "state": "FAILED", "start-time": 1},
            {"jid": "new", "name": "x", "state": "RUNNING", "start-time": 2},
            {"jid": "other", "name": "y", "state": "RUNNING", "start-time": 3},
        ]
    }
    assert flink.jobs("x") == [("new", "RUNNING"), ("old", "FAILED")]


def test_a_state_is_the_one_of_now_and_a_forgotten_job_is_unknown(flink, answers):
    answers["GET /jobs/overview"] = {"jobs": [{"jid": JOB, "name": "x", "state": "FINISHED"}]}
    answers[f"GET /jobs/{JOB}"] = {"state": "RUNNING"}  # kept by the wall clock, which was put back
    assert flink.state(JOB) == "FINISHED"
    assert flink.state("b" * 32) == "UNKNOWN"


def test_checkpoints_before_and_after_the_first(flink, answers):
    path = f"GET /jobs/{JOB}/checkpoints"
    answers[path] = {"counts": {"completed": 0, "failed": 1}, "latest": {"completed": None}}
    assert flink.checkpoints(JOB) == Checkpoints(0, 1, "")
    answers[path] = {
        "counts": {"completed": 7, "failed": 1},
        "latest": {"completed": {"external_path": "file:/c/chk-7"}},
    }
    assert flink.checkpoints(JOB) == Checkpoints(7, 1, "file:/c/chk-7")


def test_the_root_cause_is_the_innermost(flink, answers):
    answers[f"GET /jobs/{JOB}/exceptions?maxExceptions=16"] = {
        "exceptionHistory": {
            "entries": [{"exceptionName": "x", "stacktrace": TRACE, "timestamp": 1}]
        }
    }
    assert flink.root_cause(JOB) == "java.lang.IllegalStateException: the disk is full"


def test_no_failure_no_cause(flink, answers):
    answers[f"GET /jobs/{JOB}/exceptions?maxExceptions=16"] = {"exceptionHistory": {"entries": []}}
    assert flink.root_cause(JOB) == ""


def test_restarts(flink, answers):
    answers[f"GET /jobs/{JOB}/metrics?get=numRestarts"] = [{"id": "numRestarts", "value": "2"}]
    assert flink.restarts(JOB) == 2


def test_a_savepoint_is_waited_for(flink, answers):
    answers[f"POST /jobs/{JOB}/stop"] = {"request-id": "r"}
    answers[f"GET /jobs/{JOB}/savepoints/r"] = [
        ({"status": {"id": "IN_PROGRESS"}},),
        ({"status": {"id": "COMPLETED"}, "operation": {"location": "file:/s"}},),
    ]
    assert flink.stop_with_savepoint(JOB, "file:/", sleep=lambda _: None) == "file:/s"


def test_a_savepoint_that_takes_too_long_is_an_error(flink, answers):
    answers[f"POST /jobs/{JOB}/stop"] = {"request-id": "r"}
    answers[f"GET /jobs/{JOB}/savepoints/r"] = {"status": {"id": "IN_PROGRESS"}}
    ticks = iter(range(100))
    with pytest.raises(FlinkUnavailable, match="no savepoint within 3 s"):
        flink.stop_with_savepoint(
            JOB, "file:/", timeout=3, sleep=lambda _: None, clock=lambda: next(ticks)
        )


def test_a_job_manager_that_is_away_is_named():
    with pytest.raises(FlinkUnavailable, match="Flink at 127.0.0.1:9 does not answer"):
        FlinkRest("127.0.0.1:9", FlinkTls()).task_managers()


@pytest.fixture
def closed(tmp_path):
    """A server with the identity of a cluster, that answers to nobody else."""
    identity = make_identity(tmp_path / "tls", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate_file, identity.key_file)
    context.load_verify_locations(identity.ca_file)
    context.verify_mode = ssl.CERT_REQUIRED

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"taskmanagers": 3}')

        def log_message(self, *arguments):
            pass

    class Server(ThreadingHTTPServer):
        def finish_request(self, request, client_address):
            with (
                contextlib.suppress(OSError),
                context.wrap_socket(request, server_side=True) as tls,
            ):
                super().finish_request(tls, client_address)

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", identity
    server.shutdown()
    server.server_close()


def test_over_tls_it_shows_its_certificate_and_asks_for_the_other(closed, tmp_path):
    address, identity = closed
    assert FlinkRest(address, identity).task_managers() == 3
    stranger = make_identity(tmp_path / "stranger", "127.0.0.1")
    for tls in (
        FlinkTls(),
        FlinkTls(identity.ca_file),
        FlinkTls(identity.ca_file, stranger.certificate_file, stranger.key_file),
        FlinkTls(stranger.ca_file, identity.certificate_file, identity.key_file),
    ):
        with pytest.raises(FlinkUnavailable, match="does not answer"):
            FlinkRest(address, tls).task_managers()
