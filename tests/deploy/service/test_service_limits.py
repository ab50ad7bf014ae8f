"""The service's limits: the queue, the timeout, the token; batches, reasons, fuzzed input."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from urllib.parse import urljoin

import numpy as np
import pytest
from fastapi.testclient import TestClient

from deploy.dashboard.routes import Dashboard
from deploy.ingest.forgotten_users import ForgottenUsers
from deploy.ingest.item_changes import ItemChanges
from deploy.ingest.routes import router
from deploy.monitoring.thinned_curve import Curve
from deploy.release.judge import RecentEvents
from deploy.service.app import create_app
from deploy.service.popularity_baseline import PopularityBaseline
from deploy.service.retrieval import RetrievalService
from deploy.service.sequence_follower import SequenceFollower
from deploy.service.snapshot_follower import SnapshotFollower
from deploy.service.user_histories import HistoryRecord, UserHistories
from deploy.service.work_queue import QueueFull, TooSlow, WorkQueue
from indexer.search.config import SearchConfig
from streaming.events import UserSequence
from streaming.kafka_clients import KafkaConnection
from streaming.topics import Topics
from tests.deploy.kept_records import KeptRecords
from tests.deploy.service.test_service import worker_on
from tests.deploy.snapshot_maker import ITEMS, Shelf, clicks

SEARCH = SearchConfig(codes=4)


class Serving:
    """A service on a snapshot and the histories of `clicks`, or of other sequences."""

    def __init__(
        self, shelf: Shelf, token: str = "", sequences: Sequence[UserSequence] | None = None
    ) -> None:
        self.recent = RecentEvents(1000)
        self.popularity = PopularityBaseline(window=1000)

        def taken(events: list[tuple[int, int, UserSequence]]) -> None:
            self.recent.add(events)
            self.popularity.add(events)

        forgotten = ForgottenUsers(shelf.data_dir)
        self.histories = UserHistories(shelf.data_dir / "service" / "histories", taken, forgotten)
        given = clicks() if sequences is None else sequences
        records = [HistoryRecord("s", 0, at, s.to_bytes()) for at, s in enumerate(given)]
        self.histories.store(records, {("s", 0): len(records)})
        self.follower = SnapshotFollower(shelf.data_dir, SEARCH)
        for version in (1, 2):
            shelf.publish(version)
            self.follower.poll()
        self.service = RetrievalService(
            worker_on(shelf.data_dir, timeout_seconds=30.0),
            self.follower,
            self.histories,
            SequenceFollower(self.histories, KafkaConnection("127.0.0.1:1"), "s"),
            popularity=self.popularity,
            recent=self.recent,
        )
        self.said = KeptRecords()
        changes = ItemChanges(self.said, Topics(), self.follower.properties, lambda: {})
        ingestion = partial(router, self.said, changes, Topics(), lambda: None, forgotten=forgotten)
        self.app = create_app(
            self.service, 65_536, token, hosts=("testserver",), ingestion=ingestion
        )
        self.dashboard = Dashboard(self.service)
        self.dashboard.add_to(self.app)
        self.http = TestClient(self.app, "http://127.0.0.1")

    def close(self) -> None:
        self.dashboard.close()
        self.service.close()
        self.histories.close()


@pytest.fixture
def serving(shelf: Shelf) -> Iterator[Serving]:
    one = Serving(shelf)
    yield one
    one.close()


def test_a_full_queue_refuses_at_once_and_recovers() -> None:
    queue = WorkQueue("test", threads=1, room=1, timeout_seconds=10.0)
    gate = threading.Event()

    async def crowd() -> list[object]:
        first = [asyncio.create_task(queue.run(gate.wait)) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(QueueFull):
            await queue.run(lambda: None)
        gate.set()
        done = await asyncio.gather(*first)
        return [*done, await queue.run(lambda: "again")]

    assert asyncio.run(crowd()) == [True, True, "again"]
    assert (queue.waiting, queue.refused) == (0, 1)
    queue.close()


def test_work_that_waits_too_long_is_dropped() -> None:
    queue = WorkQueue("test", threads=1, room=4, timeout_seconds=0.1)
    gate, done = threading.Event(), list[str]()

    async def slow() -> None:
        first = asyncio.create_task(queue.run(gate.wait))
        await asyncio.sleep(0.01)
        with pytest.raises(TooSlow):
            await queue.run(lambda: done.append("too late"))
        with pytest.raises(TooSlow):
            await first
        gate.set()

    asyncio.run(slow())
    queue.close()
    assert (done, queue.timed_out) == ([], 2)
    assert queue.waiting == 0


def test_too_many_requests_are_answered_429(serving: Serving) -> None:
    gate = threading.Event()
    serving.service.queue = WorkQueue("test", 1, 0, 10.0)
    state = serving.follower.retriever
    assert state is not None
    real = state.answers
    state.answers = lambda *given: (gate.wait(10), real(*given))[1]  # type: ignore[method-assign]
    codes: list[int] = []

    def ask() -> None:
        codes.append(serving.http.post("/v1/retrieve", json={"user_id": 1}).status_code)

    first = threading.Thread(target=ask)
    first.start()
    deadline = time.monotonic() + 10
    while serving.service.queue.waiting == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    refused = serving.http.post("/v1/retrieve", json={"user_id": 1})
    gate.set()
    first.join()
    assert codes == [200]
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert "sparc_service_queue_refused_total 1.0" in serving.http.get("/metrics").text
    assert serving.http.get("/health").status_code == 200


def test_a_batch_is_answered_in_order_as_one_by_one(serving: Serving) -> None:
    queries = [
        {"user_id": 3, "k": 5},
        {"history": [], "k": 7},
        {"user_id": 999, "k": 5},
        {"history": [1, 2], "k": 5, "codes": 1},
    ]
    answer = serving.http.post("/v1/retrieve/batch", json={"queries": queries})
    assert answer.status_code == 200
    alone = [serving.http.post("/v1/retrieve", json=query).json() for query in queries]
    for one, other in zip(answer.json()["answers"], alone, strict=True):
        assert [i["item_id"] for i in one["items"]] == [i["item_id"] for i in other["items"]]
        assert [i["score"] for i in one["items"]] == pytest.approx(
            [i["score"] for i in other["items"]], rel=1e-5
        )
        assert one["known_user"] == other["known_user"]
    none = serving.http.post("/v1/retrieve/batch", json={"queries": []})
    assert none.status_code == 422
    many = serving.http.post("/v1/retrieve/batch", json={"queries": [{"history": []}] * 65})
    assert many.status_code == 422


def test_an_explanation_names_the_clicks_and_what_each_code_brought(serving: Serving) -> None:
    found = serving.http.post("/v1/explain", json={"user_id": 3, "k": 20}).json()
    mine = [s.target for s in clicks() if s.user_id == 3]
    assert [click["item_id"] for click in found["history"]] == mine
    assert sum(len(code["items"]) for code in found["codes"]) == 20
    for code in found["codes"]:
        assert code["quota"] == len(code["items"])
        assert code["explored"] == (code["clicks"] == 0)
        assert code["label"].startswith("kind ")
    assert sum(code["clicks"] for code in found["codes"]) <= len(mine)
    new = serving.http.post("/v1/explain", json={"history": [], "k": 3}).json()
    assert new["history"] == []
    assert all(code["explored"] for code in new["codes"])


def test_the_token_is_asked_of_everything_but_health_and_the_page(shelf: Shelf) -> None:
    serving = Serving(shelf, "a secret")
    http = serving.http
    for path in ("/health", "/ready", "/docs", "/openapi.json", "/dashboard/"):
        assert http.get(path).status_code == 200, path
    for path in ("/v1/snapshots", "/v1/flow", "/metrics"):
        assert http.get(path).status_code == 401, path
        wrong = http.get(path, headers={"Authorization": "Bearer a guess"})
        assert wrong.status_code == 401
        right = http.get(path, headers={"Authorization": "Bearer a secret"})
        assert right.status_code == 200
    assert http.post("/v1/retrieve", json={"history": []}).status_code == 401
    serving.close()


def test_readiness_follows_the_first_snapshot(shelf: Shelf, tmp_path: object) -> None:
    serving = Serving(shelf)
    assert serving.http.get("/ready").json() == {"version": 2}
    serving.follower.retriever = None
    assert serving.http.get("/ready").status_code == 503
    serving.close()


def test_every_answer_carries_the_headers_of_a_careful_server(serving: Serving) -> None:
    headers = serving.http.get("/dashboard/").headers
    assert "script-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_the_page_needs_no_other_host(serving: Serving) -> None:
    for path in ("/dashboard/", "/docs"):
        page = serving.http.get(path).text
        assert "http://" not in page
        assert "https://" not in page
        for asked in re.findall(r'(?:src|href)="([^"#]+)"', page):
            assert serving.http.get(urljoin(path, asked)).status_code == 200, asked


def test_popularity_answers_before_it_counts() -> None:
    peer = PopularityBaseline(window=4)
    day = 86_400_000

    def click(user: int, target: int, history: list[int], at: int) -> tuple[int, int, UserSequence]:
        return (
            0,
            0,
            UserSequence("e", user, at, len(history) + 1, history, [at] * len(history), target),
        )

    peer.add([click(1, 7, [], 0)])
    assert peer.queries == 0
    peer.add([click(1, 7, [3], 1)])
    assert (peer.queries, peer.recall) == (1, 1.0)
    peer.add([click(2, 7, [7], 2)])  # seen: not answered again
    assert peer.recall == 0.5
    peer.add([click(3, 9, [3], 5000 * day)])  # long after: weights are scaled, none overflows
    assert np.isfinite(peer._weights).all()
    assert peer.window_recall == pytest.approx(1 / 3)


def test_popularity_makes_room_for_every_item() -> None:
    peer = PopularityBaseline()
    click = UserSequence("e", 1, 0, 1, [], [], 0)
    peer.add([(0, n, replace(click, target=n)) for n in range(5_000)])
    peer.add([(0, 0, replace(click, target=4_321))] * 300)
    assert peer.best(1) == [4_321]
    assert len(peer.best(500)) == 50


def test_what_is_popular_is_the_same_for_everybody(serving: Serving) -> None:
    answer = serving.http.get("/v1/popular", params={"k": 5})
    assert answer.status_code == 200
    found = [item["item_id"] for item in answer.json()["items"]]
    assert found == serving.popularity.best(5)
    assert all(item["title"] for item in answer.json()["items"])
    assert serving.http.get("/v1/popular", params={"k": 0}).status_code == 422


def test_popularity_goes_on_after_a_restart(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "popularity.json"
    log = [(0, at, s) for at, s in enumerate(clicks())]
    whole, first = PopularityBaseline(window=50), PopularityBaseline(window=50, path=path)
    whole.add(log)
    first.add(log[:64])
    first.save()
    second = PopularityBaseline(window=50, path=path)
    second.add(log[64:])
    assert second.queries == whole.queries
    assert second.recall == pytest.approx(whole.recall, abs=0.1)
    path.write_text("{}")
    assert PopularityBaseline(path=path).queries == 0


def test_a_curve_stays_small_over_the_whole_time() -> None:
    curve = Curve(("t", "y"), size=10)
    for t in range(1000):
        curve.add((float(t), 1.0))
    times = [t for t, _ in curve.points]
    assert len(times) <= 10
    assert times[0] == 0
    assert times[-1] >= 870
    steps = np.diff(times)
    assert (steps == steps[0]).all()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/flow",
        "/v1/quality",
        "/v1/timeline",
        "/v1/split",
        "/v1/codebook",
        "/v1/codes/0/items",
        "/v1/users",
        "/v1/users/3/interests",
        "/v1/users/-9/interests",
        "/v1/compare?a=1&b=2",
        "/v1/compare?a=1&b=newest&user_id=3",
    ],
)
def test_the_dashboard_is_answered(serving: Serving, path: str) -> None:
    serving.dashboard.flow.sample()
    answer = serving.http.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.json()


def test_the_codebook_holds_every_item_once(serving: Serving) -> None:
    found = serving.http.get("/v1/codebook").json()
    assert sum(code["items"] for code in found["codes"]) == ITEMS
    listed = [
        item["item_id"]
        for code in found["codes"]
        for item in serving.http.get(f"/v1/codes/{code['code']}/items?limit=200").json()["items"]
    ]
    assert sorted(map(int, listed)) == list(range(1, ITEMS + 1))


def test_interests_are_distributions_after_every_click(serving: Serving) -> None:
    found = serving.http.get("/v1/users/3/interests").json()
    mine = [s.target for s in clicks() if s.user_id == 3]
    assert [int(step["item"]["item_id"]) for step in found["steps"][1:]] == mine
    for step in found["steps"]:
        assert sum(step["probabilities"]) + step["others"] == pytest.approx(1.0, abs=1e-3)
    unknown = serving.http.get("/v1/users/-9/interests").json()
    assert (unknown["known"], len(unknown["steps"])) == (False, 1)


def test_a_code_that_the_version_does_not_have_holds_no_items(serving: Serving) -> None:
    answer = serving.http.get("/v1/codes/150/items")
    assert (answer.status_code, answer.json()["items"]) == (200, [])


def test_versions_are_compared_and_unknown_ones_named(serving: Serving) -> None:
    found = serving.http.get("/v1/compare?a=1&b=2").json()
    assert found["paired"]["queries"] > 50
    assert len(found["codes"]) == 8
    assert found["items"]["in_both"] == ITEMS
    for name in ("99", "v99", "nonsense", "challenger"):
        refused = serving.http.get(f"/v1/compare?a=1&b={name}")
        assert refused.status_code == 404
        assert "version" in refused.json()["detail"]


@pytest.mark.parametrize(
    "attributes",
    [
        *(b'{"a": %s}' % v for v in (b"NaN", b"-Infinity", rb'"\ud800"', b"1e999", b"9" * 400)),
        rb'{"\ud800": 1}',
        b'{"a": {"time": NaN}}',
        b'{"a": ' + b"[" * 99 + b"]" * 99 + b"}",
    ],
)
def test_what_json_can_write_and_nobody_can_keep_is_refused(serving: Serving, attributes) -> None:
    headers = {"Content-Type": "application/json"}
    for method, path, body in (
        ("POST", "/v1/items", b'{"items": [{"item_id": 1, "attributes": %s}]}'),
        ("PATCH", "/v1/items/1", b'{"attributes": %s}'),
    ):
        answer = serving.http.request(method, path, content=body % attributes, headers=headers)
        assert answer.status_code == 422 and "attributes" in answer.json()["detail"], answer.text
    assert not serving.said.records


def test_no_input_that_the_schema_can_make_breaks_the_service(serving: Serving) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_asgi("/openapi.json", serving.app)
    statuses: dict[int, int] = {}
    for operation in schema.get_all_operations():
        one = operation.ok()

        @given(case=one.as_strategy())
        @settings(
            max_examples=25,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def ask(case) -> None:  # type: ignore[no-untyped-def]
            answer = case.call()
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            told = (case.method, case.path, case.body, answer.text)
            assert answer.status_code < 500, told
            assert str(answer.status_code) in case.operation.definition.raw["responses"], told

        ask()
    assert statuses[200] > 50
    assert sum(statuses.values()) > 120


def test_from_the_acknowledgement_on_a_user_is_unknown(serving: Serving) -> None:
    user = clicks()[0].user_id

    def known() -> list[object]:
        body = {"user_id": user, "k": 5}
        batch = serving.http.post("/v1/retrieve/batch", json={"queries": [body]}).json()
        why = serving.http.post("/v1/explain", json=body).json()
        return [
            serving.http.post("/v1/retrieve", json=body).json()["known_user"],
            batch["answers"][0]["known_user"],
            bool(why["history"]),
        ]

    assert known() == [True, True, True]
    assert serving.http.delete(f"/v1/users/{user}").json()["accepted"] == 1
    assert known() == [False, False, False]
    page = {"Origin": "http://evil.example"}
    assert serving.http.delete("/v1/users/7", headers=page).status_code == 403
    assert len(serving.said.records) == 1
