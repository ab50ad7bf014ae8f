"""Every table says what changed, and takes it back: base and deltas give the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.histories import History, pad_histories
from model.tables.catalogue import Catalogue
from model.tables.cooccurrence import Cooccurrence, CooccurrenceConfig
from model.tables.decayed_counts import Popularity
from model.tables.row_table import RowTable
from model.tables.touched_rows import CHECKPOINT, PUBLICATION, TouchedRows
from streaming.bounds import DAY_MS
from streaming.items import Item

ROWS = 12
Change = Callable[[Any, np.random.Generator], None]


def step(table: RowTable, dice: np.random.Generator) -> None:
    table.grow(len(table) + int(dice.integers(0, 3)))
    rows = torch.from_numpy(dice.choice(len(table), int(dice.integers(1, 4)), replace=False))
    if dice.random() < 0.3:
        table.renew(dice.choice(len(table), 2, replace=False))
    (table.gather(rows) * torch.from_numpy(dice.normal(size=(len(rows), 4)))).sum().backward()
    table.step(0.1)


def initial(rows_n: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rows_n)[:, None] + torch.arange(4) / 10


def rows() -> RowTable:
    table = RowTable(4, initial, torch.device("cpu"))
    table.grow(ROWS)
    return table


def list_some(catalogue: Catalogue, dice: np.random.Generator) -> None:
    catalogue.forget(dice.integers(0, 40, dice.integers(0, 3)))
    ids = dice.integers(0, 40, dice.integers(0, 5)).tolist()
    catalogue.add([Item(i, f"{'red green blue'[: int(dice.integers(0, 14))]}", "a") for i in ids])


def count_some(popularity: Popularity, dice: np.random.Generator) -> None:
    popularity.forget(np.unique(dice.integers(0, ROWS, dice.integers(0, 3))))
    some = int(dice.integers(0, 15))
    popularity.add(dice.integers(0, ROWS, some), dice.integers(0, 40, some) * DAY_MS // 4)


def popularity() -> Popularity:
    counts = Popularity((1.0, 9.0), log_size=20)
    counts.grow(ROWS)
    return counts


def pair_some(memory: Cooccurrence, dice: np.random.Generator) -> None:
    memory.forget(np.unique(dice.integers(0, ROWS, dice.integers(0, 3))))
    some = int(dice.integers(0, 4))
    histories = [History(dice.integers(0, ROWS, 3).tolist(), [0] * 3) for _ in range(some)]
    targets, times = dice.integers(0, ROWS, some), dice.integers(0, 9, some) * DAY_MS
    if some:
        memory.add(pad_histories(histories, lambda ids: ids), targets, times)


def neighbours() -> Cooccurrence:
    memory = Cooccurrence(CooccurrenceConfig(half_lives_days=(1.0, 9.0), slots=4))
    memory.grow(ROWS)
    return memory


TABLES: dict[str, tuple[Callable[[], Any], Change]] = {
    "rows": (rows, step),
    "catalogue": (Catalogue, list_some),
    "popularity": (popularity, count_some),
    "neighbours": (neighbours, pair_some),
}


@pytest.mark.parametrize("name", TABLES)
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(["change", "keep", "base", "publish"])))
def test_a_base_and_what_changed_since_give_the_same_bits(
    name: str, seed: int, steps: list[str]
) -> None:
    make, change = TABLES[name]
    dice, table, kept = np.random.default_rng(seed), make(), list[dict[str, torch.Tensor]]()

    def keep(whole: bool) -> None:
        changes = table.changes(whole)
        kept.append({name: tensor.clone() for name, tensor in changes.items()})

    for what in steps:
        if what == "change":
            change(table, dice)
        elif what == "publish":
            table.touched.take(PUBLICATION)
        elif what == "keep" and kept:
            keep(False)
        else:
            kept.clear()
            keep(True)
    keep(not kept)
    again = make()
    for changes in kept:
        again.apply(changes)
    for _ in range(3):  # and both go on alike
        first, second = table.changes(True), again.changes(True)
        assert first.keys() == second.keys()
        for tensor in first:
            assert torch.equal(first[tensor], second[tensor]), tensor
        state = dice.bit_generator.state
        change(table, dice)
        dice.bit_generator.state = state
        change(again, dice)


@pytest.mark.parametrize("name", TABLES)
def test_nothing_changed_is_nothing_to_keep(name: str) -> None:
    make, change = TABLES[name]
    table, dice = make(), np.random.default_rng(1)
    for _ in range(9):
        change(table, dice)
    table.touched.take(PUBLICATION)
    assert sum(x.numel() for x in table.changes(False).values()) > 10
    assert sum(x.numel() for x in table.changes(False).values()) <= 10


def test_a_row_that_was_never_stepped_takes_no_room() -> None:
    table = rows()
    step(table, np.random.default_rng(0))
    table.grow(100_000)
    assert len(table.changes(True)["rows"]) <= 5
    assert len(table.touched.rows(PUBLICATION)) <= 5


def test_a_log_whose_beginning_is_missing_is_refused() -> None:
    counts, dice = popularity(), np.random.default_rng(0)
    counts.add(np.array([1, 2]), np.array([0, 9]))
    counts.changes(True)
    count_some(counts, dice)
    with pytest.raises(ValueError, match="2 entries of a log of 0"):
        popularity().apply(counts.changes(False))


def test_each_reader_has_its_own_marks() -> None:
    touched = TouchedRows()
    touched.mark(np.array([3, 1, 1]))
    assert touched.take(CHECKPOINT).tolist() == [1, 3]
    touched.mark(np.array([2]))
    assert touched.take(CHECKPOINT).tolist() == [2]
    assert touched.take(PUBLICATION).tolist() == [1, 2, 3]
    touched.mark(np.array([], np.int64))
    assert touched.rows(PUBLICATION).tolist() == []
