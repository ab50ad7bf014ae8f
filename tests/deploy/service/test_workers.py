"""Two worker processes' worth of service on one port: who answers what, and one set of metrics."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from deploy.dashboard.routes import add_dashboard
from deploy.monitoring import moment
from deploy.release.decisions import Decision, decide
from deploy.release.split import Arm, Split, set_split, stop_split
from deploy.service import process
from deploy.service.config import ServiceConfig, ServiceError, Worker
from deploy.service.metrics import AddedUp
from deploy.service.retrieval import RetrievalService
from deploy.service.sequence_follower import SequenceFollower
from deploy.service.snapshot_follower import SnapshotFollower
from deploy.service.user_histories import UserHistories
from deploy.service.workers import Forwarding, note, noted
from indexer.search.config import SearchConfig
from streaming.kafka_clients import KafkaConnection
from tests.deploy.snapshot_maker import Shelf


class Workers:
    """Workers of one service, each in a thread."""

    def __init__(self, data_dir: Path, port: int, away: int, token: str = "") -> None:
        self._worker = Worker(
            ServiceConfig(workers=2, poll_seconds=0.05, token=token),  # type: ignore[arg-type]
            data_dir,
            KafkaConnection(f"127.0.0.1:{away}"),
            "sequences",
            SearchConfig(codes=4),
            port,
        )
        self.address = f"http://127.0.0.1:{port}"
        self.statuses: list[dict[str, Any]] = []

    @contextmanager
    def running(self, number: int) -> Iterator[None]:
        stop = threading.Event()
        one = replace(self._worker, number=number)
        thread = threading.Thread(
            target=process.run,
            args=(one, stop, lambda s: self.statuses.append(s.to_json()), add_dashboard),
        )
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(30)

    def ask(self, path: str, body: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
        """Ask over a connection of its own, which the kernel gives to either."""
        if body is None:
            return httpx.get(self.address + path, headers=headers)
        return httpx.post(self.address + path, json=body, headers=headers)


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def up(workers: Workers) -> bool:
    try:
        return all(workers.ask("/ready").status_code == 200 for _ in range(8))
    except httpx.HTTPError:
        return False


def queries(text: str) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        if family.name == "sparc_service_queries"
        for sample in family.samples
        if sample.name.endswith("_total")
    )


def test_every_worker_follows_the_split_and_goes_back(shelf: Shelf, free_ports: Any) -> None:
    shelf.publish(1)
    shelf.publish(2)
    workers = Workers(shelf.data_dir, *free_ports(2))

    def arms() -> set[tuple[str | None, int]]:
        answers = [workers.ask("/v1/retrieve", {"user_id": 7, "k": 5}).json() for _ in range(16)]
        return {(answer["arm"], answer["version"]) for answer in answers}

    with workers.running(1), workers.running(2):
        until(lambda: len(noted(shelf.data_dir)) == 2 and up(workers))
        set_split(shelf.data_dir, Split("s", (Arm("before", 1.0, version=1),)))
        until(lambda: arms() == {("before", 1)})
        shown = {workers.ask("/v1/split").json()["split"]["name"] for _ in range(8)}
        assert shown == {"s"}
        stop_split(shelf.data_dir)
        until(lambda: arms() == {(None, 2)})


def test_two_workers_answer_on_one_port_as_one_service(shelf: Shelf, free_ports: Any) -> None:
    shelf.publish(1)
    shelf.publish(2)
    workers = Workers(shelf.data_dir, *free_ports(2))
    with workers.running(1), workers.running(2):
        until(lambda: len(noted(shelf.data_dir)) == 2 and up(workers))
        answers = [workers.ask("/v1/retrieve", {"history": [1, 2], "k": 5}) for _ in range(40)]
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.text for answer in answers}) == 1
        # a counter tells the same whoever is asked, and nothing is counted twice or lost
        texts = [workers.ask("/metrics").text for _ in range(10)]
        assert {queries(text) for text in texts} == {40.0}
        own = [
            queries(httpx.get(f"http://127.0.0.1:{one['port']}/metrics").text)
            for number, one in noted(shelf.data_dir).items()
            if number == 2
        ]
        assert 0 < own[0] < 40
        until(lambda: workers.statuses[-1]["requests"] == 40)
        # what only the first one knows comes from it
        assert {workers.ask("/health").json()["version"] for _ in range(10)} == {2}
        pages = [workers.ask("/dashboard/") for _ in range(10)]
        assert {(page.status_code, page.headers["content-type"]) for page in pages} == {
            (200, "text/html; charset=utf-8")
        }
        assert {workers.ask("/nowhere").status_code for _ in range(10)} == {404}
        # a decision moves both
        decide(shelf.data_dir, Decision(1, "pinned", "person", "a test"))
        until(lambda: {workers.ask("/ready").json()["version"] for _ in range(20)} == {1})


def test_a_token_is_asked_for_by_every_worker(shelf: Shelf, free_ports: Any) -> None:
    shelf.publish(1)
    workers = Workers(shelf.data_dir, *free_ports(2), "secret")
    with workers.running(1), workers.running(2):
        until(lambda: len(noted(shelf.data_dir)) == 2 and up(workers))
        for path, body in (("/v1/retrieve", {"history": []}), ("/metrics", None)):
            without = {workers.ask(path, body).status_code for _ in range(10)}
            assert without == {401}
            given = {workers.ask(path, body, Authorization="Bearer secret") for _ in range(10)}
            assert {answer.status_code for answer in given} == {200}
        # so is the door of every worker, before what it passes on, and on each one's own port
        ports = [one["port"] for one in noted(shelf.data_dir).values()]
        for address in (workers.address, *(f"http://127.0.0.1:{port}" for port in ports)):
            for path in ("/v1/retrieve", "/metrics", "/dashboard/", "/health", "/nowhere"):
                evil = {"Host": "evil.example", "Authorization": "Bearer secret"}
                asked = {httpx.get(address + path, headers=evil).status_code for _ in range(6)}
                assert asked == {421}, (address, path)
        long = b"a" * 1_100_000  # more than `body_limit_bytes`
        right = {"Authorization": "Bearer secret"}
        for content in (long, iter([long])):  # announced and not; passed on or not
            for path in ("/v1/retrieve", "/nowhere"):
                sent = httpx.post(workers.address + path, content=content, headers=right)
                assert sent.status_code in (404, 413), (path, sent.text)


def test_without_the_first_worker_queries_are_answered_and_the_rest_says_why(
    shelf: Shelf, free_ports: Any
) -> None:
    shelf.publish(1)
    workers = Workers(shelf.data_dir, *free_ports(2))
    with workers.running(2):
        until(lambda: up(workers))
        assert workers.ask("/v1/retrieve", {"history": []}).status_code == 200
        away = workers.ask("/health")
        assert (away.status_code, "first worker" in away.text) == (503, True)


def test_a_worker_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"service\.workers"):
        one = Worker(ServiceConfig(), tmp_path, KafkaConnection(""), "", SearchConfig(), number=2)
        process.run(one, threading.Event(), lambda _: None)
    with pytest.raises(ValueError, match="workers"):
        ServiceConfig(workers=0)


def test_metrics_of_workers_are_added_up() -> None:
    registries = []
    for number in (1, 2):
        registry = CollectorRegistry()
        counter = Counter("sparc_service_queries", "Queries.", ("history",), registry=registry)
        counter.labels("request").inc(number)
        if number == 2:
            counter.labels("known_user").inc(5)
        seconds = Histogram("sparc_service_request_seconds", "Time.", registry=registry)
        seconds.observe(number)
        Counter("sparc_service_batches", "Calls.", registry=registry).inc(number)
        Counter("sparc_service_snapshot_swaps", "Not added.", registry=registry).inc(number)
        registries.append(registry)
    whole = CollectorRegistry()
    whole.register(AddedUp(registries[0].collect, [generate_latest(registries[1]).decode()]))
    text = generate_latest(whole).decode()
    assert 'sparc_service_queries_total{history="request"} 3.0' in text
    assert 'sparc_service_queries_total{history="known_user"} 5.0' in text
    assert 'sparc_service_request_seconds_bucket{le="1.0"} 1.0' in text
    assert 'sparc_service_request_seconds_bucket{le="+Inf"} 2.0' in text
    assert "sparc_service_request_seconds_sum 3.0" in text
    assert "sparc_service_batches_total 3.0" in text
    assert "sparc_service_snapshot_swaps_total 1.0" in text
    assert text.count("# TYPE sparc_service_queries_total counter") == 1


def test_a_worker_that_is_silent_is_forgotten(tmp_path: Path, monkeypatch: Any) -> None:
    note(tmp_path, 2, 4711, 3)
    assert noted(tmp_path) == {2: {"port": 4711, "answered": 3}}
    (tmp_path / "service" / "workers" / "3.json").write_text("{")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 11)
    assert noted(tmp_path) == {}


def test_a_worker_that_is_away_is_told(tmp_path: Path) -> None:
    now = [moment.now()]
    service = RetrievalService(
        Worker(ServiceConfig(workers=3), tmp_path, KafkaConnection(""), "s", SearchConfig()),
        SnapshotFollower(tmp_path, SearchConfig()),
        UserHistories(tmp_path / "histories"),
        SequenceFollower(UserHistories(tmp_path / "others"), KafkaConnection(""), "s"),
        clock=lambda: now[0],
    )
    note(tmp_path, 1, 4710, 0)
    note(tmp_path, 3, 4711, 0)
    assert service.who_is_away() == ""  # it may be starting
    now[0] = now[0]._replace(seconds=now[0].seconds + 11, wall=now[0].wall + 11)
    assert service.who_is_away().startswith("2 of 3 workers live")
    note(tmp_path, 2, 4712, 0)
    assert service.who_is_away() == ""


def test_an_id_in_a_path_comes_to_the_first_worker_as_it_was_written(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    class First(BaseHTTPRequestHandler):
        def do_PATCH(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            seen.append((self.path, body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), First)
    threading.Thread(target=server.handle_request).start()
    note(tmp_path, 1, server.server_port, 0)
    path = "/v1/items/a%2Fb%3Fc%25d%C3%BC?x=%26"

    async def ask() -> int:
        transport = httpx.ASGITransport(Forwarding(tmp_path, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
            return (await http.patch(path, content=b"{}")).status_code

    assert asyncio.run(ask()) == 200
    assert seen == [(path, "{}")]
    server.server_close()
