"""Filters in Qdrant's form: what passes, against plain Python, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.catalogue.conditions import FilterError
from indexer.catalogue.filter import Filter
from indexer.catalogue.item_columns import ItemColumns
from tests.indexer.made_columns import batch_of

KINDS = {
    "color": "string",
    "price": "number",
    "new": "boolean",
    "tags": "strings",
    "born": "time",
}
DAY = 86_400_000
ITEMS = {
    1: {"category": "Games", "color": "red", "price": 5.0, "new": True, "tags": ["a", "b"]},
    2: {"category": "Games", "color": "blue", "price": 9.5, "new": False, "tags": []},
    3: {"category": "", "price": 20.0, "tags": ["b"], "born": 3 * DAY},
    4: {"category": "Books", "color": "green", "born": 0},
}


def passing(
    filter_: Any, columns: ItemColumns | None = None, ids: tuple[int, ...] = ()
) -> list[int]:
    columns = columns or ItemColumns.of([batch_of(ITEMS, KINDS)])
    asked = np.array(ids or sorted(ITEMS), np.int64)
    mask = Filter.parse(filter_).mask(columns)
    return asked[mask[columns.rows_of(asked)]].tolist()


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"key": "color", "match": {"value": "red"}}, [1]),
        ({"key": "color", "match": {"any": ["red", "green", "pink"]}}, [1, 4]),
        ({"key": "color", "match": {"except": ["red"]}}, [2, 4]),
        ({"key": "tags", "match": {"value": "b"}}, [1, 3]),
        ({"key": "tags", "match": {"except": ["b"]}}, [1]),
        ({"key": "category", "match": {"value": "Games"}}, [1, 2]),
        ({"key": "new", "match": {"value": False}}, [2]),
        ({"key": "price", "match": {"value": 5}}, [1]),
        ({"key": "price", "range": {"gt": 5, "lte": 20}}, [2, 3]),
        ({"key": "price", "range": {"gte": 5, "lt": 9.5, "gt": None}}, [1]),
        ({"key": "born", "range": {"gte": "1970-01-02T00:00:00Z"}}, [3]),
        ({"key": "born", "range": {"lt": "1970-01-01T01:00:00+01:00"}}, []),
        ({"key": "born", "range": {"lte": 0}}, [4]),
        ({"key": "born", "match": {"value": "1970-01-04"}}, [3]),
        ({"key": "tags", "values_count": {"gte": 2}}, [1]),
        ({"key": "tags", "values_count": {"lt": 1}}, [2, 4]),
        ({"key": "color", "values_count": {"gte": 1, "lt": 2}}, [1, 2, 4]),
        ({"is_empty": {"key": "tags"}}, [2, 4]),
        ({"is_null": {"key": "tags"}}, [4]),
        ({"is_empty": {"key": "category"}}, [3]),
        ({"key": "price", "is_null": True}, [4]),
        ({"key": "price", "is_null": False}, [1, 2, 3]),
        ({"key": "color", "match": {"any": []}}, []),
    ],
)
def test_conditions(condition: dict[str, Any], expected: list[int]) -> None:
    assert passing({"must": [condition]}) == expected
    assert passing({"must": condition}) == expected
    assert passing({"must_not": condition}) == [n for n in ITEMS if n not in expected]


RED = {"key": "color", "match": {"value": "red"}}
GAMES = {"key": "category", "match": {"value": "Games"}}
CHEAP = {"key": "price", "range": {"lt": 15}}


@pytest.mark.parametrize(
    ("clauses", "expected"),
    [
        ({}, [1, 2, 3, 4]),
        ({"must": [], "should": None}, [1, 2, 3, 4]),
        ({"must": [GAMES], "must_not": [RED]}, [2]),
        ({"should": [RED, {"key": "born", "range": {"lt": 1}}]}, [1, 4]),
        ({"must": [CHEAP], "should": [RED]}, [1]),
        ({"min_should": {"conditions": [RED, GAMES, CHEAP], "min_count": 3}}, [1]),
        ({"min_should": {"conditions": [RED, GAMES, CHEAP], "min_count": 2}}, [1, 2]),
        ({"must": {"should": [RED, {"must_not": GAMES}]}}, [1, 3, 4]),
    ],
)
def test_clauses(clauses: dict[str, Any], expected: list[int]) -> None:
    assert passing(clauses) == expected


def test_an_item_without_a_row_has_no_value_of_anything() -> None:
    assert passing({"must": [RED]}, ids=(1, 77)) == [1]
    assert passing({"must_not": [RED]}, ids=(1, 77)) == [77]
    assert passing({"must": {"is_empty": {"key": "color"}}}, ids=(1, 77)) == [77]


def nested(depth: int) -> dict[str, Any]:
    return {"must": [nested(depth - 1)]} if depth > 1 else {"must": []}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "^filter is \\[\\], not an object"),
        ({"most": []}, "^filter: 'most' is unknown; known are must, "),
        ({"must": [3]}, "^filter.must.0 is 3, not an object"),
        ({"must": [{"key": "price"}]}, "^filter.must.0: give one of match, "),
        ({"must": [{"key": "price", "match": {"text": "a"}}]}, "^filter.must.0.match: 'text'"),
        ({"must": [{"has_id": [1]}]}, "^filter.must.0: 'has_id' is unknown"),
        ({"must": {"key": "", "match": {"value": 1}}}, "^filter.must.key is ''"),
        ({"must": {"key": "x" * 300, "match": {"value": 1}}}, "longer than 256 bytes"),
        ({"must": {"key": "size", "match": {"value": 1}}}, "no item has an attribute 'size'"),
        (
            {"must": [{"key": "price", "range": {"gte": "cheap"}}]},
            "^filter.must.0.range.gte is 'cheap', not a number",
        ),
        ({"must": [{"key": "price", "range": {"gte": float("nan")}}]}, "range.gte is nan"),
        ({"must": [{"key": "price", "range": {"gte": 10**30}}]}, "does not fit 64 bits"),
        ({"must": [{"key": "price", "range": {}}]}, "^filter.must.0.range: give one of gt"),
        ({"must": [{"key": "color", "range": {"gte": 1}}]}, "'color' is string, a range is"),
        ({"must": [{"key": "new", "match": {"value": 1}}]}, "match.value is 1, not a boolean"),
        ({"must": [{"key": "price", "match": {"value": True}}]}, "is True, not a number"),
        ({"must": [{"key": "tags", "match": {"any": "b"}}]}, "match.any is 'b', not a list"),
        ({"must": [{"key": "tags", "match": {"any": [["b"]]}}]}, "match.any.0 is"),
        ({"must": [{"key": "tags", "match": {"any": ["b"] * 1001}}]}, "more than 1000 values"),
        ({"must": [{"key": "tags", "match": {"value": "\ud800"}}]}, "no text in Unicode"),
        ({"must": [{"key": "tags", "match": {"value": "x" * 9000}}]}, "longer than 8192 bytes"),
        ({"must": [{"key": "born", "range": {"gt": "soon"}}]}, "not a time as RFC 3339 has it"),
        ({"must": [{"key": "tags", "values_count": {"gt": -1}}]}, "values_count.gt is -1"),
        ({"min_should": {"conditions": [RED], "min_count": 2}}, "min_count is 2, of 1 conditions"),
        ({"should": [RED] * 101}, "^filter.should.100: more than 100 conditions"),
        (nested(9), "more than 8 deep"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_place(given: Any, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        passing(given)


def test_the_deepest_that_may_be_is_taken() -> None:
    assert passing(nested(8)) == [1, 2, 3, 4]


def test_equal_filters_are_known_by_their_text() -> None:
    one = Filter.parse({"must": [{"key": "price", "range": {"gte": 1, "lt": 2}}]})
    same = Filter.parse({"must": [{"range": {"lt": 2, "gte": 1}, "key": "price"}]})
    assert one == same
    assert one != Filter.parse({"must": [{"key": "price", "range": {"gte": 1.5, "lt": 2}}]})


# --- against plain Python

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "color": st.sampled_from(["red", "blue", ""]),
    "price": st.sampled_from([-1.0, 0.0, 1.5, 2.0]),
    "new": st.booleans(),
    "tags": st.lists(st.sampled_from(["a", "b", "c"]), max_size=3),
    "born": st.integers(0, 3).map(lambda day: day * DAY),
    "category": st.sampled_from(["Games", "Books"]),
}
ELEMENTS = VALUES | {"tags": st.sampled_from(["a", "b", "d"])}
TEST = {
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
}


def bounds(limit: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(list(TEST)), limit, min_size=1, max_size=2)


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    key = draw(st.sampled_from(list(VALUES)))
    some = st.lists(ELEMENTS[key], max_size=3)
    made: dict[str, st.SearchStrategy[dict[str, Any]]] = {
        "match": st.one_of(
            st.fixed_dictionaries({"value": ELEMENTS[key]}),
            st.fixed_dictionaries({"any": some}),
            st.fixed_dictionaries({"except": some}),
        ),
        "values_count": bounds(st.integers(0, 3)),
        "is_empty": st.just({"key": key}),
        "is_null": st.just({"key": key}),
    }
    if key in ("price", "born"):
        made["range"] = bounds(ELEMENTS[key])
    name = draw(st.sampled_from(sorted(made)))
    test = draw(made[name])
    return {name: test} if name.startswith("is_") else {"key": key, name: test}


FILTERS = st.recursive(
    conditions(),
    lambda inner: st.dictionaries(
        st.sampled_from(["must", "should", "must_not"]), st.lists(inner, max_size=3), min_size=1
    ),
    max_leaves=8,
).map(lambda made: made if made.keys() <= {"must", "should", "must_not"} else {"must": [made]})


def plainly(given: dict[str, Any], item: dict[str, Any]) -> bool:
    """Whether an item passes, by the words of Qdrant's page."""
    clauses = {"must", "should", "must_not"}
    if given.keys() <= clauses:
        results = {name: [plainly(one, item) for one in given.get(name) or []] for name in clauses}
        should = results["should"]
        return all(results["must"]) and not any(results["must_not"]) and (any(should) or not should)
    ((name, test),) = ((name, test) for name, test in given.items() if name != "key")
    key = test["key"] if name.startswith("is_") else given["key"]
    held = item.get(key)
    values = held if isinstance(held, list) else [] if held is None else [held]
    if name == "is_null":
        return held is None
    if name == "is_empty":
        return not values
    if name == "values_count":
        return all(TEST[one](len(values), n) for one, n in test.items())
    if name == "range":
        return any(all(TEST[one](value, n) for one, n in test.items()) for value in values)
    if "value" in test:
        return test["value"] in values
    if "any" in test:
        return any(value in test["any"] for value in values)
    return any(value not in test["except"] for value in values)


ROWS = st.dictionaries(
    st.integers(0, 9),
    st.fixed_dictionaries({}, optional=VALUES),
    max_size=8,
)


@settings(max_examples=60, deadline=None)  # a loaded machine is no failure
@given(st.lists(ROWS, min_size=1, max_size=3), FILTERS)
def test_what_passes_is_what_plain_python_lets_pass(
    files: list[dict[int, dict[str, Any]]], filter_: dict[str, Any]
) -> None:
    complete = {99: {"color": "x", "price": 7.0, "new": True, "tags": ["z"], "born": 9 * DAY}}
    columns = ItemColumns.of(batch_of(rows, KINDS) for rows in (complete, *files))
    items: dict[int, dict[str, Any]] = {n: {} for n in range(10)} | complete
    for rows in files:
        items |= rows
    expected = [n for n, item in sorted(items.items()) if plainly(filter_, item)]
    assert passing(filter_, columns, tuple(items)) == sorted(expected)
