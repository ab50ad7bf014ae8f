"""Poison: a record that breaks its schema is logged and skipped. It stops nobody."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import structlog

from streaming.bounds import EventError

log = structlog.get_logger(__name__)

V = TypeVar("V")
Parser = Callable[[bytes | None, bytes | None], V]
"""Makes something of a record's key and value, or raises `EventError`."""


def parse(
    parser: Parser[V], key: bytes | None, value: bytes | None, place: Mapping[str, object]
) -> V | None:
    """Parse a record; poison becomes None and one log line that names its `place`."""
    try:
        return parser(key, value)
    except EventError as error:
        log.warning("poison record skipped", reason=str(error), **place)
        return None
