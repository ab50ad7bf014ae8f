from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deploy.local.drain import drain_steps, incomplete
from deploy.monitoring.part_status import Statuses
from streaming.statuses import IndexerStatus, RegistrarStatus, ServiceStatus, TrainerStatus

WHOLE: dict[str, Any] = {
    "events_read": 10,
    "clicks_produced": 10,
    "sequences": 9,
    "late": 0,
    "dead_letters": 0,
    "duplicates": 1,
    "lost": 0,
    "trained_events": 9,
    "catalogue_items": 4,
    "indexed_items": 4,
    "snapshots_published": 2,
    "registered_versions": 2,
}


def test_totals_that_add_up_are_complete() -> None:
    assert incomplete(WHOLE) == ""
    assert incomplete({**WHOLE, "trained_events": 7, "quarantined": 2}) == ""


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("lost", 1, "lost"),
        ("clicks_produced", 9, "clicks_produced"),
        ("trained_events", 8, "trained_events"),
        ("quarantined", 1, "quarantined"),
        ("indexed_items", 3, "indexed_items"),
        ("snapshots_published", 0, "snapshot"),
        ("registered_versions", 1, "registered"),
    ],
)
def test_each_kind_of_loss_is_named(field: str, value: int, said: str) -> None:
    assert said in incomplete({**WHOLE, field: value})


def test_a_drain_waits_for_each_part_in_turn() -> None:
    statuses = Statuses()
    steps = drain_steps(lambda: 9)
    assert [step.done(statuses) for step in steps] == [False] * 4

    train = TrainerStatus(caught_up=True, sequences_read=9, last_handover={"sequence": 3})
    index = IndexerStatus(caught_up=True, handover=2, version=2)
    statuses = Statuses(train=train, index=index)
    assert [step.done(statuses) for step in steps] == [True, False, False, False]

    statuses = replace(
        statuses,
        index=IndexerStatus(caught_up=True, handover=3, version=3),
        register=RegistrarStatus(caught_up=True, last_registered=2),
        serve=ServiceStatus(version=3),
    )
    assert [step.done(statuses) for step in steps] == [True, True, True, False]
    statuses = replace(statuses, register=RegistrarStatus(caught_up=True, last_registered=3))
    assert all(step.done(statuses) for step in steps)


def test_a_trainer_that_is_idle_before_the_stream_has_ended_is_not_done() -> None:
    training = drain_steps(lambda: 9)[0]
    idle = TrainerStatus(caught_up=True, sequences_read=5, last_handover={"sequence": 1})
    assert not training.done(Statuses(train=idle))
