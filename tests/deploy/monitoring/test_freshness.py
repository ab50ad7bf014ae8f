"""The pipeline's own measure of its delays: what is observed, what is not, and how it is shown."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from deploy.monitoring import freshness as room
from deploy.monitoring.delay_quantiles import quantiles
from deploy.monitoring.freshness import Freshness
from deploy.monitoring.moment import Moment
from indexer.snapshots.snapshot_facts import SnapshotFacts
from streaming.events import UserSequence
from streaming.items import Item
from tests.deploy.service.test_service import Running, know
from tests.deploy.snapshot_maker import ITEMS, START_MS, Shelf, clicks


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> Moment:
        return Moment("here", self.now - 900, self.now)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def state(learnt: int = 0, items: int = 3) -> Any:
    facts = SnapshotFacts(offsets={"sequences": {"0": learnt}})

    return SimpleNamespace(
        snapshot=SimpleNamespace(facts=facts), may_answer=lambda ids: np.array(ids) <= items
    )


def sequence(event_id: str) -> UserSequence:
    return UserSequence(event_id, 1, 5, 1, [], [], 2)


def told(freshness: Freshness) -> dict[str, Any]:
    registry = CollectorRegistry()
    registry.register(freshness)
    return quantiles(generate_latest(registry).decode())


def test_a_withdrawal_is_followed_until_no_answer_has_the_item(clock):
    freshness = Freshness(clock)
    freshness.serves(state(items=3))
    freshness.withdrawn(3, clock.now)
    freshness.withdrawn(9, clock.now)  # it could not be retrieved anyway
    freshness.withdrawn(2, clock.now)
    freshness.listed(2, clock.now)  # and was listed again at once
    clock.now += 0.7
    freshness.serves(state(items=1))
    assert told(freshness)["item_withdrawn"]["count"] == 1
    assert 0.1 < told(freshness)["item_withdrawn"]["p95"] < 1.0


def test_a_click_is_followed_into_the_history_and_into_a_version_that_learnt_it(clock):
    freshness = Freshness(clock)
    freshness.serves(state())
    freshness.clicked("a", clock.now)
    clock.now += 1.1
    freshness.taken_in([(0, 7, sequence("a"))])
    clock.now += 20
    freshness.serves(state(learnt=7))  # trained up to, and without, the click
    assert told(freshness)["click_learnt"]["count"] == 0
    clock.now += 10
    freshness.serves(state(learnt=8))
    found = told(freshness)
    assert found["click_in_history"]["count"] == found["click_learnt"]["count"] == 1
    assert 1.0 < found["click_in_history"]["p95"] <= 1.2
    assert 30 < found["click_learnt"]["p95"] <= 40


def test_a_sequence_that_is_stored_before_its_click_was_looked_at_counts_too(clock):
    freshness = Freshness(clock)
    freshness.serves(state(learnt=9))
    freshness.taken_in([(0, 7, sequence("a"))])
    stored = clock.now
    clock.now += 5
    freshness.clicked("a", stored - 0.35)
    found = told(freshness)
    assert 0.3 < found["click_in_history"]["p50"] <= 0.4 and found["click_learnt"]["count"] == 1


def test_an_item_counts_from_its_listing_to_the_state_that_can_answer_with_it(clock):
    freshness = Freshness(clock)
    freshness.listed(4, clock.now)
    freshness.serves(state(items=3))
    freshness.listed(2, clock.now)  # can be retrieved already
    clock.now += 1.5
    freshness.listed(4, clock.now)  # announced again: the first announcement counts
    freshness.serves(state(items=4))
    found = told(freshness)["item_retrievable"]
    assert found["count"] == 1 and 1.4 < found["p95"] <= 1.6


def test_what_never_arrives_is_counted_as_lost_and_forgotten(clock):
    freshness = Freshness(clock)
    for n in range(5):
        freshness.clicked(f"late {n}", clock.now)
    clock.now += room.PATIENCE_SECONDS + 1
    freshness.taken_in([])
    registry = CollectorRegistry()
    registry.register(freshness)
    assert registry.get_sample_value("sparc_freshness_lost_total", {"what": "click"}) == 5


def test_before_the_first_event_there_are_no_quantiles(clock):
    assert told(Freshness(clock))["click_learnt"] == {"p50": None, "p95": None, "count": 0}


def test_the_service_measures_what_its_own_parts_do_and_exports_it(shelf: Shelf):
    running = Running(shelf)
    try:
        running.serve(1)
        now = running._service.clock().wall
        for one in clicks():
            if one.user_id == 3:
                running._service.freshness.clicked(one.event_id, now - 1)
        known = know(running, 3)
        running._service.freshness.listed(ITEMS + 1, now - 2)
        shelf.append(1, [Item(ITEMS + 1, "new", "kind 1", "B", START_MS)])
        assert running.follower.poll()
        found = quantiles(running.http.get("/metrics").text)
        assert found["click_in_history"]["count"] == len(known)
        assert found["item_retrievable"]["count"] == 1
        assert found["click_learnt"]["count"] > 0  # version 1 had learnt the first of them
    finally:
        running.close()
