"""What one client may cost: connections, long heads, slow requests, answers that nobody reads."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from deploy.http.bounded_protocol import bounded_protocol
from deploy.http.connections import Limits, most_connections, raise_descriptors
from deploy.service import process
from tests.deploy.service.test_service import worker_on
from tests.deploy.snapshot_maker import Shelf

ROOT = Path(__file__).resolve().parents[3]
LIMITS = Limits(
    connections=20, head_bytes=8192, head_seconds=1.0, body_seconds=1.0, write_seconds=1.0
)
LARGE = b"x" * 30_000_000


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    request = Request(scope, receive)
    try:
        body = await request.body()
    except ClientDisconnect:
        return
    answer = LARGE if scope["path"] == "/large" else b"%d" % len(body)
    await PlainTextResponse(answer)(scope, receive, send)


class Server:
    def __init__(self, limits: Limits) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        config = uvicorn.Config(
            echo, http=bounded_protocol(limits), ws="none", log_config=None, lifespan="off"
        )
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.server.run, args=([self.listener],))
        self._thread.start()

    @property
    def held(self) -> int:
        return len(self.server.server_state.connections)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=10)

    def ask(self, **more: object) -> httpx.Response:
        host, port = self.address
        return httpx.post(f"http://{host}:{port}/", timeout=60, **more)  # type: ignore[arg-type]

    def end(self) -> None:
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server(LIMITS)
    yield one
    one.end()


@pytest.fixture
def usual() -> Iterator[Server]:
    """With the limits that a service has."""
    one = Server(Limits())
    yield one
    one.end()


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def all_of(connection: socket.socket) -> bytes:
    found = b""
    try:
        while more := connection.recv(65_536):
            found += more
    except OSError:
        pass
    return found


def test_requests_go_on_as_before(usual: Server) -> None:
    host, port = usual.address
    with httpx.Client(base_url=f"http://{host}:{port}") as http:
        for size in (0, 1, 70_000, 1_000_000):
            assert http.post("/", content=b"b" * size).text == str(size)
        chunks = (b"c" for _ in range(3_000))
        assert http.post("/", content=chunks).text == "3000"
    with usual.connect() as connection:  # pipelined
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 5)
        answered = b""
        while answered.count(b"HTTP/1.1 200") < 5:
            more = connection.recv(65_536)
            assert more, answered
            answered += more


def test_connections_that_idle_make_room_for_those_that_ask(server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(server.connect())
            assert server.ask(content=b"abc").text == "3"
        assert server.held <= LIMITS.connections


def test_an_idle_connection_is_closed(server: Server) -> None:
    with server.connect() as connection:
        assert all_of(connection) == b""
    wait_for(lambda: server.held == 0)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000,
        b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 20_000,
        b"GET /" + b"a" * 200_000,
        b"GET / HTTP/1.1\r\n" + b"a" * 200_000,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: " + b"a" * 200_000,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 200_000,
    ],
    ids=["a value", "many", "a path", "a name", "a trailer", "an extension"],
)
def test_a_long_head_is_refused_at_once(server: Server, head: bytes) -> None:
    with server.connect() as connection:
        began = time.monotonic()
        try:
            for at in range(0, len(head), 1000):
                connection.sendall(head[at : at + 1000])
        except OSError:
            pass  # it was refused before it was sent
        answer = all_of(connection)
        assert time.monotonic() - began < 20
        assert answer == b"" or b" 431 " in answer or b" 400 " in answer, answer[:100]
    wait_for(lambda: server.held == 0)


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET / HTTP/1.1\r\n", b"X: a\r\n"),
        (b"GET / HTTP/1.1\r\nX: ", b"a"),
        (b"", b"\r\n"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n", b"a"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        (b"GET / HTTP/1.1\r\n\r\n", b"\r\n"),
    ],
    ids=["headers", "a header", "nothing", "a body", "chunks", "after an answer"],
)
def test_a_client_that_dribbles_is_given_up(server: Server, begin: bytes, more: bytes) -> None:
    with server.connect() as connection:
        began = time.monotonic()
        connection.sendall(begin)
        try:
            while time.monotonic() - began < 30:
                connection.sendall(more)
                time.sleep(0.1)
        except OSError:
            pass
        assert time.monotonic() - began < 20
    wait_for(lambda: server.held == 0)


def test_a_client_that_does_not_read_its_answer_is_cut_off(server: Server) -> None:
    with server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(b"GET /large HTTP/1.1\r\nConnection: close\r\n\r\n")
        wait_for(lambda: server.held == 1)
        wait_for(lambda: server.held == 0)


def test_a_slow_but_steady_body_is_taken() -> None:
    server = Server(replace(LIMITS, body_seconds=2.0))

    def slowly() -> Iterator[bytes]:
        for _ in range(8):
            time.sleep(0.5)
            yield b"a" * 4000

    try:
        assert server.ask(content=slowly()).text == "32000"
    finally:
        server.end()


def test_long_headers_of_many_hold_nobody_up(server: Server) -> None:
    stop = threading.Event()

    def send() -> None:
        while not stop.is_set():
            try:
                with server.connect() as connection:
                    connection.sendall(b"GET / HTTP/1.1\r\nX: ")
                    for _ in range(200):
                        connection.sendall(b"a" * 1_000_000)
            except OSError:
                continue

    senders = [threading.Thread(target=send) for _ in range(4)]
    for sender in senders:
        sender.start()
    try:
        for _ in range(20):
            began = time.monotonic()
            assert server.ask(content=b"abc").text == "3"
            assert time.monotonic() - began < 10
    finally:
        stop.set()
        for sender in senders:
            sender.join()


def test_descriptors_are_raised_as_far_as_the_system_lets_us() -> None:
    code = (
        "import resource; from deploy.http.connections import raise_descriptors as r; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512)); print(r()); "
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split("\n")[:2] == ["512", "(512, 512)"]
    assert raise_descriptors() >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0
    assert most_connections(10, 1_000_000) == 10
    assert most_connections(1000, 512) == 256


def test_a_thousand_idle_connections_leave_the_service_its_files(
    shelf: Shelf, free_ports: Callable[[int], list[int]]
) -> None:
    shelf.publish(1)
    port, away = free_ports(2)
    status = shelf.data_dir / "status" / "serve.json"
    served = subprocess.Popen(
        [sys.executable, "-m", "deploy", "serve", "--data-dir", str(shelf.data_dir)],
        cwd=ROOT,
        env=os.environ
        | {"SPARC_PORTS__SERVICE": str(port), "SPARC_KAFKA__BOOTSTRAP": f"127.0.0.1:{away}"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512)),
    )
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert served.poll() is None
        try:
            return httpx.get(f"{url}/ready", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_for(ready, 60)
        with ExitStack() as stack:
            for _ in range(1_000):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            began = time.time()
            shelf.publish(2)
            wait_for(lambda: httpx.get(f"{url}/health").json()["version"] == 2, 30)
            asked = httpx.post(f"{url}/v1/retrieve", json={"history": [1], "k": 3})
            assert asked.status_code == 200
            wait_for(lambda: status.stat().st_mtime > began)
        assert served.poll() is None
    finally:
        served.terminate()
        served.wait(30)


def test_a_status_that_cannot_be_written_ends_no_service(shelf: Shelf, free_ports) -> None:
    shelf.publish(1)
    stop, tries = threading.Event(), list[int]()

    def report(_: object) -> None:
        tries.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    thread = threading.Thread(
        target=process.run,
        args=(worker_on(shelf.data_dir, free_ports(1)[0]), stop, report),
    )
    thread.start()
    try:
        wait_for(lambda: len(tries) >= 3, 30)
        assert thread.is_alive()
    finally:
        stop.set()
        thread.join(30)
