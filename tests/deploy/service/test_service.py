from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from fastapi.testclient import TestClient

from deploy.dashboard.versions import LoadedVersions
from deploy.service import process, snapshot_follower
from deploy.service.app import create_app
from deploy.service.config import ServiceConfig, ServiceError, Worker
from deploy.service.retrieval import RetrievalService
from deploy.service.sequence_follower import SequenceFollower
from deploy.service.snapshot_follower import SnapshotFollower
from deploy.service.user_histories import HistoryRecord, UserHistories
from indexer.search import retriever
from indexer.search.config import SearchConfig
from indexer.search.query import Query
from indexer.search.retriever import Retriever
from indexer.snapshots.pointer import POINTER, snapshot_path
from model.artifacts import manifest as manifest_module
from streaming.items import Item
from streaming.kafka_clients import KafkaConnection
from tests.deploy.snapshot_maker import ITEMS, START_MS, Shelf, clicks

SEARCH = SearchConfig(codes=4)
BODY_LIMIT = 4096


def worker_on(data_dir: Path, port: int = 0, **settings: Any) -> Worker:
    """The only worker of a service that Kafka is away from."""
    away = KafkaConnection("127.0.0.1:1", {"bootstrap_timeout_ms": 500})
    return Worker(ServiceConfig(**settings), data_dir, away, "sequences", SEARCH, port)


class Running:
    """A service whose parts a test moves by hand."""

    def __init__(self, shelf: Shelf) -> None:
        self.data_dir = data_dir = shelf.data_dir
        self.shelf = shelf
        self.follower = SnapshotFollower(data_dir, SEARCH, retry_seconds=0.0)
        self.histories = UserHistories(data_dir / "service" / "histories")
        sequences = SequenceFollower(self.histories, KafkaConnection("127.0.0.1:1"), "sequences")
        self._service = RetrievalService(
            worker_on(data_dir, threads=2), self.follower, self.histories, sequences
        )
        self.http = TestClient(create_app(self._service, BODY_LIMIT), "http://127.0.0.1")

    def serve(self, version: int) -> None:
        self.shelf.publish(version)
        assert self.follower.poll()

    def retrieve(self, **body: Any) -> dict[str, Any]:
        answer = self.http.post("/v1/retrieve", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def close(self) -> None:
        self._service.close()
        self.histories.close()


@pytest.fixture
def running(shelf: Shelf) -> Iterator[Running]:
    one = Running(shelf)
    yield one
    one.close()


def know(running: Running, user: int) -> list[int]:
    """Take in the clicks of one user; returns the items, oldest first."""
    mine = [s for s in clicks() if s.user_id == user]
    records = [HistoryRecord("sequences", 0, at, s.to_bytes()) for at, s in enumerate(mine)]
    running.histories.store(records, {("sequences", 0): len(records)})
    return [s.target for s in mine]


def test_before_the_first_snapshot_it_lives_and_says_that_it_is_not_ready(running: Running) -> None:
    assert not running.follower.poll()
    health = running.http.get("/health").json()
    assert (health["live"], health["ready"], health["version"]) == (True, False, None)
    answer = running.http.post("/v1/retrieve", json={"user_id": 1})
    assert answer.status_code == 503
    assert "no snapshot is loaded yet" in answer.json()["detail"]
    assert "sparc_service_ready 0.0" in running.http.get("/metrics").text


def test_an_answer_shows_items_codes_probabilities_and_quota(running: Running) -> None:
    running.serve(1)
    answer = running.retrieve(history=[1, 8, 15], k=20)
    assert answer["version"] == 1
    assert answer["known_user"] is None
    assert len(answer["items"]) == 20
    assert not {item["item_id"] for item in answer["items"]} & {1, 8, 15}
    first = answer["items"][0]
    number = first["item_id"]
    assert first["title"] == f"Item {number} of kind {number % 7}"
    assert first["category"] == f"kind {number % 7}"
    assert first["external_id"] == f"B{number:09d}"
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    searched = {code["code"]: code for code in answer["searched"]}
    inside = [item for item in answer["items"] if item["code"] in searched]
    assert sum(code["quota"] for code in searched.values()) == len(inside) > 10
    for item in inside:
        assert item["code_probability"] == pytest.approx(
            searched[item["code"]]["probability"], rel=1e-5
        )
    probabilities = [code["probability"] for code in answer["searched"]]
    assert probabilities == sorted(probabilities, reverse=True)


def test_a_known_user_is_answered_from_what_was_clicked(running: Running) -> None:
    running.serve(1)
    clicked = know(running, 3)
    answer = running.retrieve(user_id=3, k=10)
    assert answer["known_user"] is True
    times = [s.event_time for s in clicks() if s.user_id == 3]
    same = running.retrieve(history=clicked, history_times=times, k=10, now_ms=answer["now_ms"])
    assert answer["items"] == same["items"]


def test_unknown_user_and_empty_history_get_the_interest_prior(running: Running) -> None:
    running.serve(1)
    unknown = running.retrieve(user_id=999_999, k=10)
    assert unknown["known_user"] is False
    assert len(unknown["items"]) == 10
    assert running.retrieve(history=[], k=10)["items"] == unknown["items"]


def test_seen_items_stay_in_where_asked(running: Running) -> None:
    running.serve(1)
    answer = running.retrieve(history=[1, 8], k=ITEMS, exclude_seen=False)
    assert {item["item_id"] for item in answer["items"]} == set(range(1, ITEMS + 1))
    answer = running.retrieve(history=[1, 8], k=ITEMS)
    assert len(answer["items"]) == ITEMS - 2


def test_the_number_of_codes_can_be_asked_for(running: Running) -> None:
    running.serve(1)
    wide = running.retrieve(history=[1], k=3, codes=6)
    assert len(wide["searched"]) >= len(running.retrieve(history=[1], k=3, codes=1)["searched"])


def test_a_published_snapshot_takes_over(running: Running) -> None:
    running.serve(1)
    running.serve(2)
    assert running.retrieve(history=[1])["version"] == 2
    metrics = running.http.get("/metrics").text
    assert "sparc_service_snapshot_version 2.0" in metrics
    assert "sparc_service_snapshot_swaps_total 2.0" in metrics
    shown = running.http.get("/v1/snapshots").json()
    assert [(s["version"], s["serving"]) for s in shown] == [(2, True), (1, False)]


def test_an_item_that_was_appended_is_retrieved(running: Running) -> None:
    running.serve(1)
    running.shelf.append(1, [Item(1000, "Item 1000", "kind 0", "B1000", START_MS)])
    assert running.follower.poll()
    answer = running.retrieve(history=[], k=ITEMS + 1)
    found = {item["item_id"]: item for item in answer["items"]}
    assert found[1000]["title"] == "Item 1000"
    assert running.http.get("/health").json()["appended_items"] == 1


def test_memory_is_given_back_when_a_version_takes_over_not_for_appended_items(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(snapshot_follower, "give_back", lambda: given.append(1))
    running.serve(1)
    running.serve(2)
    running.shelf.append(2, [Item(1000, "Item 1000", "kind 0", "B1000", START_MS)])
    assert running.follower.poll()
    assert len(given) == 2


def test_a_version_that_is_looked_at_costs_what_differs_from_what_serves(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2):
        running.serve(version)
    read: list[Path] = []
    digest = manifest_module.hashlib.file_digest

    def counted(file: Any, name: str) -> Any:
        read.append(Path(file.name))
        return digest(file, name)

    monkeypatch.setattr(manifest_module.hashlib, "file_digest", counted)
    held: list[object] = []
    real = retriever.load_version

    def loaded(*arguments: Any, **more: Any) -> Any:
        held.append(more["held"])
        return real(*arguments, **more)

    monkeypatch.setattr(retriever, "load_version", loaded)
    serving = running.follower.retriever
    assert serving is not None
    looked_at = LoadedVersions(running.data_dir, running.follower).get(1)
    assert held == [serving.snapshot] and not read  # version 1 served before
    alone = Retriever.of_version(running.data_dir, 1, SEARCH)
    query = Query([1, 2, 3])
    assert looked_at.version == 1
    assert looked_at.answer(query).items == alone.answer(query).items


def test_a_damaged_snapshot_never_takes_over(running: Running) -> None:
    running.serve(1)
    running.shelf.publish(2)
    weights = running.data_dir / snapshot_path(2) / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert not running.follower.poll()
    health = running.http.get("/health").json()
    assert (health["ready"], health["version"]) == (True, 1)
    assert "weights.safetensors" in health["last_error"]
    assert running.retrieve(history=[1])["version"] == 1
    assert "sparc_service_snapshot_failures_total 1.0" in running.http.get("/metrics").text
    content[-1] ^= 1
    weights.write_bytes(content)
    assert running.follower.poll()  # mended: tried again though the pointer did not move
    assert running.http.get("/health").json()["last_error"] == ""


def test_a_start_with_a_damaged_snapshot_serves_the_newest_sound_one(running: Running) -> None:
    for version in (1, 2, 3):
        running.shelf.publish(version)
    (running.data_dir / snapshot_path(3) / "placed.arrow").write_bytes(b"")
    running.follower.poll()
    assert running.retrieve(history=[1])["version"] == 2


def test_a_malformed_pointer_leaves_the_last_good_state(running: Running) -> None:
    running.serve(1)
    (running.data_dir / POINTER).write_text('{"version": 2, "path": "../../etc"}')
    assert not running.follower.poll()
    assert running.retrieve(history=[1])["version"] == 1
    assert POINTER in running.http.get("/health").json()["last_error"]


def test_no_answer_mixes_versions_while_snapshots_are_swapped(running: Running) -> None:
    running.serve(1)
    states = {1: running.follower.retriever}
    expected = {1: running.retrieve(history=[1, 2], k=30, now_ms=START_MS)}
    failures: list[object] = []
    versions = set()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answer = running.retrieve(history=[1, 2], k=30, now_ms=START_MS)
            versions.add(answer["version"])
            state = states.get(answer["version"]) or running.follower.retriever
            assert state is not None
            alone = state.answer(Query([1, 2], k=30, now_ms=START_MS))
            if state.version == answer["version"] and alone.items != [
                item["item_id"] for item in answer["items"]
            ]:
                failures.append(answer)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for version in (2, 3, 4):
        running.serve(version)
        states[version] = running.follower.retriever
        time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert versions >= {2, 3}
    assert expected[1]["version"] == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "give either user_id or history"),
        ({"user_id": 1, "history": [1]}, "give either user_id or history"),
        ({"user_id": [1]}, "user_id: Input should be a valid integer (given [1])"),
        ({"user_id": 2**63}, "user_id: Input should be less than"),
        ({"user_id": 1, "k": 0}, "k: Input should be greater than or equal to 1"),
        ({"user_id": 1, "k": 501}, "k: Input should be less than or equal to 500"),
        ({"user_id": 1, "codes": 0}, "codes: Input should be greater than or equal to 1"),
        ({"user_id": 1, "kk": 3}, "kk: Extra inputs are not permitted"),
        ({"history": [1, None]}, "history.1: Input should be a valid integer"),
        ({"history": [1], "history_times": []}, "history has 1 items and history_times 0 times"),
        ({"user_id": 1, "history_times": []}, "history_times belongs to history"),
        ({"history": [1], "history_times": [-5]}, "history_times.0: Input should be greater"),
        (
            {"history": [1], "history_times": [1_400_000_000]},
            "history_times.0: the time 1400000000 looks like seconds, milliseconds expected",
        ),
        (
            {"user_id": 1, "now_ms": 1_400_000_000_000_000},
            "now_ms: the time 1400000000000000 looks like microseconds, milliseconds expected",
        ),
        ([1, 2], "Input should be a valid dictionary"),
    ],
)
def test_bad_input_is_refused_in_words(running: Running, body: object, words: str) -> None:
    answer = running.http.post("/v1/retrieve", json=body)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_what_is_not_json_is_refused_in_words(running: Running) -> None:
    kind = {"content-type": "application/json"}
    answer = running.http.post("/v1/retrieve", content=b"{nonsense", headers=kind)
    assert answer.status_code == 422
    assert "the body is not JSON" in answer.json()["detail"]
    answer = running.http.post("/v1/retrieve", content=b'{"user_id": 1}')
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["detail"]


def test_a_long_body_is_refused_announced_or_not(running: Running) -> None:
    body = json.dumps({"history": [10**17] * 300}).encode()
    assert len(body) > BODY_LIMIT
    announced = running.http.post("/v1/retrieve", content=body)
    assert announced.status_code == 413
    assert "longer than 4096 bytes" in announced.json()["detail"]

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(body), 512):
            yield body[at : at + 512]

    assert running.http.post("/v1/retrieve", content=pieces()).status_code == 413


def test_the_page_of_the_interface_has_examples_that_are_answered(running: Running) -> None:
    running.serve(1)
    interface = running.http.get("/openapi.json").json()
    content = interface["paths"]["/v1/retrieve"]["post"]["requestBody"]["content"]
    examples = content["application/json"]["examples"]
    assert len(examples) == 4
    for example in examples.values():
        running.retrieve(**example["value"])


def test_requests_are_measured_by_route_and_status(running: Running) -> None:
    running.serve(1)
    running.retrieve(history=[1])
    running.http.post("/v1/retrieve", json={})
    metrics = running.http.get("/metrics").text
    line = 'sparc_service_request_seconds_count{route="/v1/retrieve",status="%d"} 1.0'
    assert line % 200 in metrics
    assert line % 422 in metrics
    assert 'sparc_service_queries_total{history="request"} 1.0' in metrics


def test_a_query_without_a_time_is_asked_at_the_newest_one_known(shelf: Shelf) -> None:
    shelf.publish(1)
    state = Retriever.load(shelf.data_dir / snapshot_path(1), SEARCH)
    late = state.answer(Query([1, 2], now_ms=START_MS + 10**9))
    assert late.now_ms == START_MS + 10**9
    assert state.answer(Query([1, 2])).now_ms == state.event_time_ms
    assert state.answer(Query([1, 2]), clock_ms=state.event_time_ms + 5).now_ms == (
        state.event_time_ms + 5
    )


class Process:
    """`service.run` in a thread, as a process runs it, with no Kafka to be reached."""

    def __init__(self, data_dir: Path, port: int = 0) -> None:
        self.stop = threading.Event()
        self.reports: list[dict[str, Any]] = []
        self._thread = threading.Thread(
            target=process.run,
            args=(
                worker_on(data_dir, port),
                self.stop,
                lambda status: self.reports.append(orjson.loads(orjson.dumps(status.to_json()))),
            ),
        )
        self._thread.start()

    def wait_for(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self.reports and condition(self.reports[-1]):
                return self.reports[-1]
            time.sleep(0.02)
        raise AssertionError(f"not reported: {self.reports[-1:]}")

    def end(self) -> None:
        self.stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


def test_without_kafka_a_second_start_serves_the_last_champion_at_once(shelf: Shelf) -> None:
    first = Process(shelf.data_dir)
    address = first.wait_for(lambda s: bool(s["address"]))["address"]
    assert httpx.get(f"{address}/health").json()["ready"] is False
    shelf.publish(1)
    first.wait_for(lambda s: s["version"] == 1)
    first.end()
    began = time.monotonic()
    second = Process(shelf.data_dir)
    address = second.wait_for(lambda s: s["version"] == 1)["address"]
    assert time.monotonic() - began < 5
    answer = httpx.post(f"{address}/v1/retrieve", json={"user_id": 1, "k": 5})
    assert len(answer.json()["items"]) == 5
    assert httpx.get(f"{address}/health").json()["kafka_connected"] is False
    second.end()
    assert second.reports[-1]["ready"] is False


def test_a_port_in_use_is_one_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=f"cannot listen on 127.0.0.1:{port}"):
            process.run(worker_on(tmp_path, port), threading.Event(), lambda _: None)
