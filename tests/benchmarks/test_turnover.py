from __future__ import annotations

from pathlib import Path

import pytest
import torch

import model.artifacts.chain as chain_module
from tests.benchmarks.turnover import turn_over
from tests.model.learning.test_learner import SMALL

LIVE = 120


def test_a_catalogue_that_turns_over_ends_no_larger_than_what_is_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_module, "FLOOR", 0)  # else nothing of this size is ever packed
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two wait for each other where others work, too
    first, *_, last = turn_over(tmp_path, SMALL, LIVE, 3, 40, steps=5)
    torch.set_num_threads(threads)
    for name in ("trainer_rows", "prequential_rows", "handover_rows", "listed_items"):
        assert LIVE <= last[name] <= 1.5 * LIVE, (
            name
        )  # a step's items, and those that are within their grace
    assert last["absent_items"] <= 0.3 * LIVE
    for name, size in last.items():
        if name not in ("generation", "absent_items"):
            assert size <= 1.3 * first[name], name
