"""A filter as it is written: Qdrant's JSON form, over category and attributes of items.

    {"must": [{"key": "category", "match": {"any": ["Board Games", "Puzzles"]}},
              {"key": "price", "range": {"gte": 5, "lt": 20}}],
     "must_not": {"key": "tags", "match": {"value": "used"}}}

`must`, `should` and `must_not` take a condition or a list of them; `min_should` takes `conditions`
and `min_count`. A condition is again such a filter, or one of

    {"key": K, "match": {"value": V}}                a value is V
    {"key": K, "match": {"any": [V, ...]}}           a value is among these
    {"key": K, "match": {"except": [V, ...]}}        a value is none of these
    {"key": K, "range": {"gt|gte|lt|lte": V}}        a number, or a time (RFC 3339 or ms), is within
    {"key": K, "values_count": {"gt|gte|lt|lte": n}} so many values
    {"is_empty": {"key": K}}                         no value, or an empty list
    {"is_null": {"key": K}}                          no value

A list meets a condition if any of its values does; no value meets no `match` and no `range`. See
https://qdrant.tech/documentation/concepts/filtering/. What an attribute cannot be compared with is
refused, where Qdrant would find nothing.

Nothing is evaluated as code: a filter becomes a tree of `indexer.catalogue.conditions`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from indexer.catalogue.column import Mask
from indexer.catalogue.conditions import (
    BOUNDS,
    Clause,
    Condition,
    FilterError,
    Match,
    Missing,
    Range,
    ValuesCount,
    finite,
    shown,
)
from indexer.catalogue.item_columns import ItemColumns

DEEPEST = 8
"""Filters within filters."""
MOST_CONDITIONS = 100
MOST_VALUES = 1000
"""Of all `match` together."""
LONGEST_KEY = 256
LONGEST_VALUE = 8192
"""Bytes of text, as of what is compared with it."""

CLAUSES = ("must", "should", "must_not", "min_should")
TESTS = ("match", "range", "values_count", "is_empty", "is_null")
MATCHES = ("value", "any", "except")


@dataclass(frozen=True)
class Filter:
    """A filter that is well-formed; whether items have what it asks for is seen by `mask`.

    Attributes:
        text: as JSON in one form, by which equal filters are known.
    """

    text: str
    _condition: Condition = field(repr=False, compare=False)

    @classmethod
    def parse(cls, given: Any, place: str = "filter") -> Filter:
        """From what JSON holds.

        Args:
            given: the object.
            place: how messages call it.

        Raises:
            FilterError: naming the place that is unknown, malformed, or too much.
        """
        reader = _Reader()
        condition = reader.clause(given, place, 1)
        return cls(json.dumps(given, sort_keys=True), condition)

    def mask(self, columns: ItemColumns) -> Mask:
        """Which rows of all files pass, bool (R + 1,); the last is of items that have no row.

        Raises:
            FilterError: for an attribute that no item has, or a value of another kind.
        """
        rows = self._condition.bound(columns.types)
        return np.concatenate([*map(rows, columns.parts), rows(None)])


class _Reader:
    """Reads one filter, and counts what it asks."""

    def __init__(self) -> None:
        self._conditions = 0
        self._values = 0

    def clause(self, given: Any, place: str, depth: int) -> Clause:
        fields = _object(given, place, CLAUSES)
        if depth > DEEPEST:
            raise FilterError(f"{place}: filters lie in filters more than {DEEPEST} deep")
        must, should, must_not = (
            self._conditions_of(fields.get(name), f"{place}.{name}", depth)
            for name in ("must", "should", "must_not")
        )
        if "min_should" not in fields:
            return Clause(must, should, 1, must_not)
        where = f"{place}.min_should"
        least = _object(fields["min_should"], where, ("conditions", "min_count"))
        some = self._conditions_of(least.get("conditions"), f"{where}.conditions", depth)
        count = _count(least.get("min_count"), f"{where}.min_count")
        if count > len(some):
            raise FilterError(f"{where}.min_count is {count}, of {len(some)} conditions")
        return Clause((*must, Clause(should=some, at_least=count)), should, 1, must_not)

    def _conditions_of(self, given: Any, place: str, depth: int) -> tuple[Condition, ...]:
        if given is None:
            return ()
        if isinstance(given, list):
            return tuple(
                self._condition(one, f"{place}.{at}", depth) for at, one in enumerate(given)
            )
        return (self._condition(given, place, depth),)

    def _condition(self, given: Any, place: str, depth: int) -> Condition:
        self._conditions += 1
        if self._conditions > MOST_CONDITIONS:
            raise FilterError(f"{place}: more than {MOST_CONDITIONS} conditions")
        fields = _object(given, place, ("key", *TESTS, *CLAUSES))
        if fields.keys() & set(CLAUSES):
            return self.clause(given, place, depth + 1)
        tests = [name for name in TESTS if name in fields]
        if len(tests) != 1:
            raise FilterError(f"{place}: give one of {', '.join((*TESTS, *CLAUSES))}")
        name = tests[0]
        test, where = fields[name], f"{place}.{name}"
        if name in ("is_empty", "is_null"):
            wanted = True
            if isinstance(test, bool):
                wanted = test
            else:
                fields = _object(test, where, ("key",)) | fields
            return Missing(place, _key(fields, where), name == "is_empty", wanted)
        key = _key(fields, place)
        if name == "match":
            return self._match(key, test, place)
        bounds = _object(test, where, BOUNDS)
        if not bounds:
            raise FilterError(f"{where}: give one of {', '.join(BOUNDS)}")
        if name == "range":
            limits = ((one, _value(limit, f"{where}.{one}")) for one, limit in bounds.items())
            return Range(place, key, tuple(limits))
        counts = ((one, _count(n, f"{where}.{one}")) for one, n in bounds.items())
        return ValuesCount(place, key, tuple(counts))

    def _match(self, key: str, given: Any, place: str) -> Match:
        where = f"{place}.match"
        fields = _object(given, where, MATCHES)
        if len(fields) != 1:
            raise FilterError(f"{where}: give one of {', '.join(MATCHES)}")
        ((word, values),) = fields.items()
        where = f"{where}.{word}"
        if word == "value":
            return Match(place, key, (_value(values, where),), False, word)
        if not isinstance(values, list):
            raise FilterError(f"{where} is {shown(values)}, not a list")
        self._values += len(values)
        if self._values > MOST_VALUES:
            raise FilterError(f"{where}: more than {MOST_VALUES} values to match")
        found = tuple(_value(one, f"{where}.{at}") for at, one in enumerate(values))
        return Match(place, key, found, word == "except", word)


def _object(given: Any, place: str, known: Collection[str]) -> dict[str, Any]:
    """The fields of an object, all known; what is null is not there."""
    if not isinstance(given, dict):
        raise FilterError(f"{place} is {shown(given)}, not an object")
    for name in given:
        if name not in known:
            raise FilterError(f"{place}: {shown(name)} is unknown; known are {_listed(known)}")
    return {name: value for name, value in given.items() if value is not None}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _key(fields: dict[str, Any], place: str) -> str:
    key = fields.get("key")
    if not isinstance(key, str) or not key:
        raise FilterError(f"{place}.key is {shown(key)}, not the name of an attribute")
    if len(finite(key, f"{place}.key").encode()) > LONGEST_KEY:
        raise FilterError(f"{place}.key is longer than {LONGEST_KEY} bytes")
    return key


def _value(value: Any, place: str) -> Any:
    if not isinstance(value, str | int | float):
        raise FilterError(f"{place} is {shown(value)}, not a text, number or truth value")
    value = finite(value, place)
    if isinstance(value, str) and len(value.encode()) > LONGEST_VALUE:
        raise FilterError(f"{place} is longer than {LONGEST_VALUE} bytes")
    return value


def _count(value: Any, place: str) -> int:
    if type(value) is not int or value < 0:
        raise FilterError(f"{place} is {shown(value)}, not a number of at least 0")
    return int(finite(value, place))
