"""Conditions over the properties of items, evaluated column by column.

A condition is first bound to the attributes that items have, which refuses what makes no sense of
them, and then asked for the rows of each file that meet it. An item that has no row has no value of
anything.

Shapes: n rows of a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from indexer.catalogue.column import Column, Mask
from indexer.catalogue.item_columns import CATEGORY, Part
from indexer.errors import IndexerError
from streaming.bounds import since_epoch_ms
from streaming.item_attributes import Kind

Bound = Callable[[Part | None], Mask]
"""The rows of a file that meet a condition (n); of None: of one item without any value (1)."""
Types = Mapping[str, Kind]

BOUNDS: dict[str, Callable[..., Any]] = {
    "gt": np.greater,
    "gte": np.greater_equal,
    "lt": np.less,
    "lte": np.less_equal,
}
SHOWN = 60
"""Characters of a value in a message."""


class FilterError(IndexerError):
    """A filter makes no sense; the message names the place in it."""


class Condition(Protocol):
    """What an item meets or not."""

    def bound(self, types: Types) -> Bound:
        """The condition over items that have these attributes.

        Raises:
            FilterError: for an attribute that no item has, or a value of another kind.
        """
        ...


@dataclass(frozen=True)
class _OfKey:
    """A condition on the values that an item has of one key.

    Attributes:
        place: where in the filter it stands.
        key: `category`, or the name of an attribute.
    """

    place: str
    key: str

    def kind(self, types: Types) -> Kind:
        """What the values are."""
        if self.key == CATEGORY:
            return "string"
        if self.key not in types:
            known = ", ".join([CATEGORY, *sorted(types)][:20])
            raise FilterError(
                f"{self.place}.key: no item has an attribute {shown(self.key)}; they have {known}"
            )
        return types[self.key]

    def over(self, kind: Kind, meets: Callable[[Column], Mask], none: bool) -> Bound:
        """`meets` asked of the column; `none` for items that have no value."""

        def rows(part: Part | None) -> Mask:
            column = part.column(self.key, kind) if part is not None else None
            if column is None:
                return np.full(1 if part is None else len(part), none)
            return meets(column)

        return rows


@dataclass(frozen=True)
class Match(_OfKey):
    """A value is among some, or, with `others`, a value is not among them."""

    values: tuple[Any, ...]
    others: bool
    word: str

    def bound(self, types: Types) -> Bound:
        """See `Condition`."""
        kind = self.kind(types)
        place = f"{self.place}.match.{self.word}"
        wanted = [of_kind(one, kind, place) for one in self.values]
        return self.over(kind, lambda column: column.among(wanted, self.others), none=False)


@dataclass(frozen=True)
class Range(_OfKey):
    """A number or a time lies within bounds."""

    bounds: tuple[tuple[str, Any], ...]

    def bound(self, types: Types) -> Bound:
        """See `Condition`."""
        kind = self.kind(types)
        if kind not in ("number", "time"):
            raise FilterError(
                f"{self.place}.range: {shown(self.key)} is {kind}, a range is of numbers or times"
            )
        limits = [
            (BOUNDS[name], of_kind(limit, kind, f"{self.place}.range.{name}"))
            for name, limit in self.bounds
        ]

        def within(values_v: NDArray[Any]) -> Mask:
            return np.logical_and.reduce([compare(values_v, limit) for compare, limit in limits])

        return self.over(kind, lambda column: column.where(within), none=False)


@dataclass(frozen=True)
class ValuesCount(_OfKey):
    """An item has so many values."""

    bounds: tuple[tuple[str, int], ...]

    def bound(self, types: Types) -> Bound:
        """See `Condition`."""

        def within(counts_n: NDArray[np.int64]) -> Mask:
            return np.logical_and.reduce([BOUNDS[name](counts_n, n) for name, n in self.bounds])

        nothing = bool(within(np.zeros(1, np.int64))[0])
        return self.over(self.kind(types), lambda column: within(column.counts_n), nothing)


@dataclass(frozen=True)
class Missing(_OfKey):
    """An item has no value (`empty`: nor has its list any), or, unless `wanted`, it has."""

    empty: bool
    wanted: bool

    def bound(self, types: Types) -> Bound:
        """See `Condition`."""

        def missing(column: Column) -> Mask:
            none_n = column.counts_n == 0 if self.empty else column.null_n
            return none_n == self.wanted

        return self.over(self.kind(types), missing, self.wanted)


@dataclass(frozen=True)
class Clause:
    """All of some conditions, at least so many of others, and none of a third kind."""

    must: tuple[Condition, ...] = ()
    should: tuple[Condition, ...] = ()
    at_least: int = 1
    must_not: tuple[Condition, ...] = ()

    def bound(self, types: Types) -> Bound:
        """See `Condition`."""
        must, should, must_not = (
            [one.bound(types) for one in some] for some in (self.must, self.should, self.must_not)
        )

        def rows(part: Part | None) -> Mask:
            meets = np.full(1 if part is None else len(part), True)
            for one in must:
                meets &= one(part)
            for one in must_not:
                meets &= ~one(part)
            if should:
                met = np.zeros(len(meets), np.int16)
                for one in should:
                    met += one(part)
                meets &= met >= self.at_least
            return meets

        return rows


def of_kind(value: Any, kind: Kind, place: str) -> Any:
    """A value of a filter as the columns of this kind hold it; a time in milliseconds.

    Raises:
        FilterError: for one of another kind.
    """
    if kind == "number" and type(value) in (int, float):
        return value
    if kind == "boolean" and type(value) is bool:
        return value
    if kind in ("string", "strings") and isinstance(value, str):
        return value
    if kind == "time" and (type(value) is int or isinstance(value, str)):
        return in_ms(value, place)
    wanted = {"strings": "string", "time": "time: RFC 3339, or milliseconds"}.get(kind, kind)
    raise FilterError(f"{place} is {shown(value)}, not a {wanted}")


def in_ms(value: int | str, place: str) -> int:
    """Milliseconds since 1970 of a time; a text without an offset is UTC.

    >>> in_ms("2026-11-29T10:00:00.5Z", "gte"), in_ms("2026-11-29", "gte")
    (1795946400500, 1795910400000)
    """
    if isinstance(value, int):
        return value
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise FilterError(f"{place} is {shown(value)}, not a time as RFC 3339 has it") from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return since_epoch_ms(time)


def shown(value: Any) -> str:
    """A value for a message; of a long one its beginning."""
    text = repr(value[:SHOWN] if isinstance(value, str | list) else value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def finite(value: Any, place: str) -> Any:
    """A value of a filter, unless no column could hold it.

    Raises:
        FilterError: for NaN, infinity, an integer beyond 64 bits, or text that is no Unicode.
    """
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise FilterError(f"{place} does not fit 64 bits")
    if type(value) is float and not math.isfinite(value):
        raise FilterError(f"{place} is {value}, not a number")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise FilterError(f"{place} is no text in Unicode") from None
    return value
