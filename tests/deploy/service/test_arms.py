"""The arms of a split answer their users, from real snapshots, and say so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from deploy.dashboard.routes import Dashboard
from deploy.release.split import SPLIT, Arm, Split, SplitError, set_split, stop_split
from deploy.service import arms
from deploy.service.answer_log import AnswerLog, read_answers
from deploy.service.app import create_app
from deploy.service.config import AnswerLogConfig
from deploy.service.retrieval import RetrievalService
from deploy.service.sequence_follower import SequenceFollower
from deploy.service.snapshot_follower import SnapshotFollower
from deploy.service.user_histories import HistoryRecord, UserHistories
from indexer.building.late_items import LateItems
from streaming.items import Item
from streaming.kafka_clients import KafkaConnection
from tests.deploy.service.test_service import SEARCH, worker_on
from tests.deploy.snapshot_maker import ITEMS, Shelf, clicks
from tests.indexer.properties import withdraw


class Divided:
    """A service with histories, two versions and an answer log, whose parts a test moves."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf, self.data_dir = shelf, shelf.data_dir
        self.histories = UserHistories(self.data_dir / "service" / "histories")
        records = [HistoryRecord("s", 0, at, s.to_bytes()) for at, s in enumerate(clicks())]
        self.histories.store(records, {("s", 0): len(records)})
        self.follower = SnapshotFollower(self.data_dir, SEARCH)
        self.log = AnswerLog(self.data_dir / "service" / "answers", AnswerLogConfig())
        self.service = RetrievalService(
            worker_on(self.data_dir, timeout_seconds=30.0),
            self.follower,
            self.histories,
            SequenceFollower(self.histories, KafkaConnection("127.0.0.1:1"), "s"),
            answers=self.log,
        )
        for version in (1, 2):
            shelf.publish(version)
            self.service.arms.poll()
        app = create_app(self.service, 65_536)
        self.dashboard = Dashboard(self.service)
        self.dashboard.add_to(app)
        self.http = TestClient(app, "http://127.0.0.1")

    def split(self, *arms: Arm, name: str = "s") -> Split:
        split = set_split(self.data_dir, Split(name, arms))
        self.service.arms.poll()
        return split

    def ask(self, path: str = "/v1/retrieve", **body: Any) -> dict[str, Any]:
        answer = self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def logged(self) -> pa.Table:
        """What was logged until now; what is asked later is in no log."""
        self.service.shadows.close()
        stop = threading.Event()
        stop.set()
        self.log.run(stop)
        return read_answers(self.data_dir / "service" / "answers")

    def close(self) -> None:
        self.dashboard.close()
        self.service.close()
        self.histories.close()


@pytest.fixture
def divided(shelf: Shelf) -> Iterator[Divided]:
    one = Divided(shelf)
    yield one
    one.close()


def test_without_a_split_no_answer_names_an_arm(divided: Divided) -> None:
    assert divided.ask(user_id=1)["arm"] is None
    assert divided.http.get("/v1/split").json() == {"split": None, "problem": "", "arms": []}


def test_users_are_answered_by_their_arm_on_every_route(divided: Divided) -> None:
    alike = {user: divided.ask(user_id=user, k=9) for user in range(1, 21)}
    split = divided.split(Arm("narrow", 0.4, search={"codes": "1"}), Arm("before", 0.3, version=1))
    seen = set()
    for user, former in alike.items():
        arm = split.arm_of(user)
        name = arm.name if arm else "default"
        seen.add(name)
        answer = divided.ask(user_id=user, k=9)
        assert answer["arm"] == name
        assert answer["version"] == (1 if name == "before" else 2)
        assert divided.ask("/v1/explain", user_id=user, k=9)["answer"] == answer
        similar = divided.ask("/v1/similar", user_id=user, item_id=3)
        assert (similar["arm"], similar["version"]) == (name, answer["version"])
        if name == "default":
            assert answer["items"] == former["items"]
        elif name == "narrow":
            assert answer["items"] == divided.ask(user_id=user, k=9, codes=1)["items"]
    assert seen == {"default", "narrow", "before"}
    batch = divided.ask("/v1/retrieve/batch", queries=[{"user_id": u, "k": 9} for u in alike])
    for user, answer in zip(alike, batch["answers"], strict=True):
        alone = divided.ask(user_id=user, k=9)
        assert (answer["arm"], answer["version"]) == (alone["arm"], alone["version"])
        ids = [[item["item_id"] for item in one["items"]] for one in (answer, alone)]
        assert ids[0] == ids[1]
    assert divided.ask(history=[1, 2])["arm"] == "default"


def test_the_log_and_the_metrics_carry_the_arm(divided: Divided) -> None:
    split = divided.split(Arm("narrow", 0.5, search={"codes": 1}))
    for user in range(1, 21):
        divided.ask(user_id=user)
    mine = sum(split.arm_of(user) is not None for user in range(1, 21))
    metrics = divided.http.get("/metrics").text
    assert f'sparc_service_arm_answers_total{{arm="narrow",split="s"}} {float(mine)}' in metrics
    rows = divided.logged().to_pylist()
    assert len(rows) == 20 and {row["split"] for row in rows} == {"s"}
    for row in rows:
        arm = split.arm_of(row["user_id"])
        assert (row["arm"], row["shadow"]) == (arm.name if arm else "default", False)


def test_a_shadow_arm_answers_into_the_log_alone(divided: Divided) -> None:
    before = divided.ask(user_id=3, k=9)
    divided.split(Arm("ghost", 1.0, version=1, shadow=True))
    answer = divided.ask(user_id=3, k=9)
    assert answer == before | {"arm": "default"}
    rows = divided.logged().to_pylist()
    shown, ghost = (
        next(row for row in rows if row["arm"] == name) for name in ("default", "ghost")
    )
    assert (ghost["shadow"], ghost["version"], ghost["user_id"]) == (True, 1, 3)
    assert (shown["shadow"], shown["version"]) == (False, 2)
    assert ghost["now_ms"] == shown["now_ms"] and len(ghost["items"]) == 9


def test_an_arm_knows_what_was_listed_and_withheld_since_its_version(divided: Divided) -> None:
    divided.split(Arm("before", 1.0, version=1))
    assert divided.ask(user_id=3)["arm"] == "before"
    divided.shelf.append(2, [Item(999, "Item 999 of kind 3", "kind 3", "B999")])
    divided.service.arms.poll()
    found = divided.ask(user_id=3, k=ITEMS + 1, codes=8, exclude_seen=False)
    assert found["version"] == 1
    assert 999 in {item["item_id"] for item in found["items"]}


def test_a_split_is_followed_until_it_is_stopped(divided: Divided) -> None:
    divided.split(Arm("a", 1.0))
    first = divided.service.serving()
    divided.service.arms.poll()
    assert divided.service.serving().retrievers["a"] is first.retrievers["a"]
    divided.split(Arm("b", 1.0))
    assert divided.ask(user_id=3)["arm"] == "b"
    divided.shelf.publish(3)
    divided.service.arms.poll()
    assert divided.ask(user_id=3)["version"] == 3
    stop_split(divided.data_dir)
    divided.service.arms.poll()
    assert divided.ask(user_id=3)["arm"] is None


def test_an_arm_that_cannot_be_loaded_leaves_its_users_to_the_others(divided: Divided) -> None:
    divided.split(Arm("gone", 0.5, version=77), Arm("there", 0.5, version=1))
    answers = [divided.ask(user_id=user) for user in range(1, 21)]
    assert {one["arm"] for one in answers} == {"default", "there"}
    assert "arm 'gone'" in divided.http.get("/v1/split").json()["problem"]


def test_while_the_file_is_damaged_the_split_that_it_held_goes_on(divided: Divided) -> None:
    divided.split(Arm("a", 1.0))
    (divided.data_dir / SPLIT).write_text("{")
    divided.service.arms.poll()
    assert divided.ask(user_id=3)["arm"] == "a"
    assert "malformed" in divided.service.arms.problem
    divided.split(Arm("b", 1.0))
    assert divided.ask(user_id=3)["arm"] == "b" and not divided.service.arms.problem


def test_a_split_that_cannot_be_read_for_a_moment_is_read_again(
    divided: Divided, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: Path) -> Split:
        raise SplitError("the disk's mood")

    with monkeypatch.context() as moment:
        moment.setattr(arms, "read_split", away)
        divided.split(Arm("a", 1.0))
        assert "the disk's mood" in divided.service.arms.problem
    divided.service.arms.poll()
    assert divided.ask(user_id=3)["arm"] == "a" and not divided.service.arms.problem


def test_an_arm_that_stays_as_it_was_does_not_answer_what_is_withdrawn(
    divided: Divided, monkeypatch: pytest.MonkeyPatch
) -> None:
    divided.split(Arm("before", 1.0, version=1))
    gone = divided.ask(user_id=3)["items"][0]["item_id"]

    def broken(*_: object) -> None:
        raise ValueError("what was listed since is damaged")

    monkeypatch.setattr(LateItems, "added_to", broken)
    withdraw(divided.data_dir, [gone])
    divided.service.arms.poll()
    assert "damaged" in divided.service.arms.problem
    answer = divided.ask(user_id=3, k=ITEMS)
    assert answer["arm"] == "before"
    assert gone not in {item["item_id"] for item in answer["items"]}


def test_the_arms_are_compared_over_http(divided: Divided) -> None:
    divided.split(Arm("a", 0.5))
    for user in range(1, 21):
        divided.ask(user_id=user, now_ms=1, exclude_seen=False, k=50)  # before all clicks
    divided.logged()
    week = 24 * 365
    found = divided.http.get("/v1/split", params={"window_hours": week}).json()
    assert found["split"]["name"] == "s" and not found["problem"]
    default, arm = found["arms"]
    assert (default["arm"], arm["arm"]) == ("default", "a")
    assert default["users"] + arm["users"] == 20 == default["answers"] + arm["answers"]
    assert {"difference", "difference_interval"} <= arm.keys()


def test_what_older_programs_logged_is_read_beside_what_is_logged_now(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from deploy.service.answer_log import SCHEMA

    former = pa.schema([field for field in SCHEMA if field.name not in ("split", "arm", "shadow")])
    pq.write_table(former.empty_table(), tmp_path / "000000000000001-1-000000.parquet")
    assert read_answers(tmp_path).schema == SCHEMA
