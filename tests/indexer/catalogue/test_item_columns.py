"""What is known of items, over a base and what changed since."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from indexer.catalogue.item_columns import HIDDEN, WITHDRAWN, ItemColumns
from indexer.errors import IndexerError
from tests.indexer.made_columns import batch_of


def test_a_later_file_replaces_the_rows_of_an_earlier_one_as_a_whole() -> None:
    base = batch_of({1: {"color": "red"}, 2: {"color": "blue"}}, {"color": "string"})
    columns = ItemColumns.of([base, batch_of({2: {}, 3: {}})])
    assert len(columns) == 3
    assert columns.rows_of(np.array([1, 2, 3, 4])).tolist() == [0, 2, 3, -1]
    assert columns.types == {"color": "string"}


def test_an_attribute_is_known_while_an_item_has_it_and_may_then_come_back_as_another_kind() -> (
    None
):
    columns = ItemColumns.of([batch_of({1: {"size": "L"}, 2: {"size": "M"}}, {"size": "string"})])
    one_left = columns.with_part(batch_of({1: {}}))
    assert one_left.types == {"size": "string"}
    numbers = batch_of({3: {"size": 4.0}}, {"size": "number"})
    with pytest.raises(IndexerError, match="attribute 'size' is number and string"):
        one_left.with_part(numbers)
    none_left = one_left.with_part(batch_of({2: {}}))
    assert none_left.types == {}
    assert none_left.with_part(numbers).types == {"size": "number"}


def test_a_change_of_the_only_item_that_has_an_attribute_may_change_its_kind() -> None:
    columns = ItemColumns.of([batch_of({1: {"size": "L"}}, {"size": "string"})])
    assert columns.with_part(batch_of({1: {"size": 4.0}}, {"size": "number"})).types == {
        "size": "number"
    }


def test_items_that_are_hidden_withdrawn_or_out_of_season_must_not_be_answered() -> None:
    columns = ItemColumns.of(
        [
            batch_of(
                {
                    1: {},
                    2: {"state": HIDDEN},
                    3: {"state": WITHDRAWN},
                    4: {"available_from": 100},
                    5: {"available_until": 200},
                    6: {"available_from": 100, "available_until": 200},
                    7: {"state": 1},
                }
            ),
            batch_of({7: {}, 9: {"state": 2}}),
        ]
    )
    assert columns.unlisted.tolist() == [2, 3, 9]
    assert columns.unanswerable(99).tolist() == [2, 3, 4, 6, 9]
    assert columns.unanswerable(100).tolist() == [2, 3, 9]
    assert columns.unanswerable(199).tolist() == [2, 3, 9]
    assert columns.unanswerable(200).tolist() == [2, 3, 5, 6, 9]
    periods = [columns.period(now) for now in (0, 99, 100, 199, 200, 10**15)]
    assert periods == [0, 0, 1, 1, 2, 2]


def test_nothing_is_known_of_no_files() -> None:
    columns = ItemColumns()
    assert len(columns) == 0
    assert columns.rows_of(np.array([5])).tolist() == [-1]
    assert columns.unanswerable(0).tolist() == []
    assert columns.period(5) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: batch.drop_columns(["state"]), "column 'state' is not int8"),
        (lambda batch: batch.take(pa.array([1, 0])), "item 1 does not ascend by id"),
        (
            lambda batch: batch.append_column("a.size", pa.array([1, 2], pa.int32())),
            "'a.size' is of type int32",
        ),
    ],
)
def test_a_file_that_is_none_is_refused_by_what_is_wrong(change, message) -> None:
    with pytest.raises(IndexerError, match=message):
        ItemColumns.of([change(batch_of({1: {}, 2: {}}))])
