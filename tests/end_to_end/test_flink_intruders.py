"""Who has no business with the Flink cluster: a page in a browser, another user of the machine."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from deploy.local import flink_server
from deploy.local.cluster_identity import make_identity
from deploy.local.flink_cluster import FlinkClusterConfig
from streaming.job.flink_rest import FlinkRest, FlinkUnavailable
from streaming.job.flink_tls import FlinkTls
from tests.deploy.dashboard.test_page import CHROMIUM, FLAGS, PATIENCE_MS
from tests.local_servers import await_cluster
from tests.streaming.job.live_stream import LiveStream

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

PAGE = """
async function visit(base, job) {
  const serialised = new Uint8Array([0xac, 0xed, 0, 5, 0x74, 0, 1, 0x61]);  // a Java string
  const graph = new FormData();
  graph.append("request", new Blob([JSON.stringify({
    jobGraphFileName: "graph", jobJarFileNames: [], jobArtifactFileNames: []
  })], {type: "application/json"}));
  graph.append("file_0", new Blob([serialised]), "graph");
  const blind = {mode: "no-cors", method: "POST"};
  const tries = {
    read: [`${base}/overview`, {}],
    submit: [`${base}/jobs`, {...blind, body: graph}],
    cancel: [`${base}/jobs/${job}/yarn-cancel`, {mode: "no-cors"}],
    stop: [`${base}/jobs/${job}/stop`, {...blind, body: '{"drain": false}'}],
    patch: [`${base}/jobs/${job}?mode=cancel`, {method: "PATCH"}],
  };
  const found = {};
  for (const [name, [url, options]] of Object.entries(tries)) {
    try {
      const answer = await fetch(url, options);
      found[name] = `${answer.type} ${answer.type === "opaque" ? "" : await answer.text()}`;
    } catch (error) { found[name] = "refused"; }
  }
  return found;
}
"""


@pytest.fixture
def stream(kafka_broker, flink_cluster, tmp_path) -> Iterator[LiveStream]:
    stream = LiveStream(kafka_broker, flink_cluster, tmp_path, "intruders")
    stream.config = replace(stream.config, savepoint_timeout_s=60.0)
    yield stream
    stream.stop()
    stream.cancel()


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[str]:
    """Where a page of somebody else's is served."""
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text(f"<script>{PAGE}</script>", encoding="utf-8")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "page"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH (apt-get install chromium)")
def test_a_page_of_another_origin_reads_submits_and_stops_nothing(
    stream: LiveStream, flink_cluster, origin: str
) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    stream.start()
    stream.wait(lambda: any(r.get("checkpoints") for r in stream.reports))
    flink = FlinkRest(flink_cluster.address, flink_cluster.tls)
    ((job, _),) = flink.jobs(stream.config.name)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE_MS)
        # As with a browser that has been told to go on whatever the certificate.
        page = browser.new_context(ignore_https_errors=True).new_page()
        page.goto(origin, timeout=PATIENCE_MS)
        found: dict[str, Any] = {}
        for scheme in ("http", "https"):
            base = f"{scheme}://{flink_cluster.address}"
            seen = page.evaluate(f"visit({base!r}, {job!r})")
            found |= {f"{scheme} {name}": what for name, what in seen.items()}
        browser.close()
    assert set(found.values()) == {"refused"}, found
    assert flink.jobs(stream.config.name) == [(job, "RUNNING")]
    log = flink_cluster.config.job_manager_log.read_text(errors="replace")
    assert "Failed to deserialize JobGraph" not in log
    # What is ours goes on: the job is watched, and stopped with a savepoint.
    stream.stop()
    assert flink.jobs(stream.config.name) == [(job, "FINISHED")]
    assert list((stream.folder / "checkpoints" / "savepoints").iterdir())
    flink.close()


def ports(process: psutil.Process) -> set[tuple[str, int]]:
    """What a process listens on."""
    return {
        (c.laddr.ip.removeprefix("::ffff:"), c.laddr.port)
        for c in process.net_connections("tcp")
        if c.status == psutil.CONN_LISTEN
    }


def trusting(tls: FlinkTls) -> ssl.SSLContext:
    """A client that does not care who answers, and shows the certificate of `tls`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if tls.certificate_file:
        context.load_cert_chain(tls.certificate_file, tls.key_file)
    return context


def is_let_in(address: tuple[str, int], context: ssl.SSLContext) -> bool:
    """Whether the other side goes on after the handshake."""
    with socket.create_connection(address, timeout=10) as plain:
        try:
            with context.wrap_socket(plain) as tls:
                tls.settimeout(0.5)
                return tls.recv(1) != b""
        except TimeoutError:
            return True  # it waits for what we have to say
        except OSError:
            return False


def test_every_port_of_the_cluster_takes_nobody_without_its_certificate(
    flink_cluster, tmp_path: Path
) -> None:
    stranger = make_identity(tmp_path / "stranger", "127.0.0.1")
    found = set()
    for process in (flink_cluster.job_manager, flink_cluster.task_manager):
        found |= ports(psutil.Process(process.process.pid))
    config = flink_cluster.config
    assert {config.rest_port, config.rpc_port, config.blob_port} <= {port for _, port in found}
    assert {config.task_manager_port, config.data_port} <= {port for _, port in found}
    for address in sorted(found):
        assert address[0] == "127.0.0.1"
        assert is_let_in(address, trusting(flink_cluster.tls)), address
        assert not is_let_in(address, trusting(FlinkTls())), address
        assert not is_let_in(address, trusting(stranger)), address


def test_rest_answers_only_to_its_certificate(flink_cluster, tmp_path: Path) -> None:
    address, ours = flink_cluster.address, flink_cluster.tls
    plain = httpx.get(f"http://{address}/overview")
    assert (plain.is_redirect, plain.content) == (True, b"")
    assert plain.headers["location"].startswith("https://")
    stranger = make_identity(tmp_path / "stranger", "127.0.0.1")
    for tls in (
        FlinkTls(ca_file=ours.ca_file),
        FlinkTls(ours.ca_file, stranger.certificate_file, stranger.key_file),
    ):
        with pytest.raises(FlinkUnavailable):
            FlinkRest(address, tls).task_managers()
    assert FlinkRest(address, ours).task_managers() == 1
    # ... and we talk to no cluster but ours.
    with pytest.raises(FlinkUnavailable, match="certificate"):
        FlinkRest(address, stranger).task_managers()


def test_keys_are_the_owners_and_passwords_are_said_nowhere(flink_cluster) -> None:
    config = flink_cluster.config
    secret = [config.conf_dir / "config.yaml", *(config.data_dir / "tls").iterdir()]
    assert len(secret) == 5
    for path in secret:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    for folder in (config.data_dir, config.data_dir / "tls"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    lines = (config.conf_dir / "config.yaml").read_text().splitlines()
    passwords = {line.split("'")[1] for line in lines if "-password: " in line}
    assert len(passwords) == 1
    said = [
        path.read_text(errors="replace")
        for path in [
            *config.data_dir.glob("*.out"),
            config.job_manager_log,
            config.task_manager_log,
        ]
    ]
    for process in (flink_cluster.job_manager, flink_cluster.task_manager):
        said += psutil.Process(process.process.pid).cmdline()
    assert not [text for text in said for password in passwords if password in text]
    assert all(path and path.is_file() for path in asdict(config.tls).values())


@pytest.mark.slow
def test_a_cluster_alone_is_closed_as_well_and_ends_whole(
    jars: Path, free_ports: Any, tmp_path: Path
) -> None:
    """What deploy/compose.yaml runs."""
    rest, rpc, blob, task_manager, data = free_ports(5)
    config = FlinkClusterConfig(tmp_path, "127.0.0.1", rest, rpc, blob, task_manager, data)
    stop, failed = threading.Event(), []

    def serve() -> None:
        try:
            flink_server.serve(config, stop)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        deadline = time.monotonic() + 120
        while not config.tls.key_file.is_file() and time.monotonic() < deadline:
            time.sleep(0.1)
        await_cluster(config.address, config.tls, still_running=lambda: not failed)
        assert not is_let_in(("127.0.0.1", rest), trusting(FlinkTls()))
    finally:
        stop.set()
        thread.join(60)
    assert not failed
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", rest), timeout=5)
