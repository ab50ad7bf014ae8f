"""Numbers for the ids of a log, and the identity of an event.

The pipeline's ids are int64. A decimal number keeps its value; any other text (Amazon's `A39H...`
and `B000...`) becomes the upper 63 bits of its SHA-1's first 8 bytes: the same text has the same
number in every file, run and release, without a table. Among ten million texts the chance of one
collision is 5e-6.

An event is identified by the SHA-1 of `user|item|seconds`, with user and item as they stand in
the file; its hexadecimal form also orders events of equal time (the canonical order).
"""

from __future__ import annotations

import hashlib
import re

DUCKDB_MACROS = """
CREATE MACRO is_decimal(text) AS regexp_full_match(text, '0|[1-9][0-9]{0,17}');
CREATE MACRO numeric_id(text) AS CASE WHEN is_decimal(text) THEN TRY_CAST(text AS BIGINT)
    ELSE (('0x' || left(sha1(text), 16))::UBIGINT >> 1)::BIGINT END;
CREATE MACRO event_id(user_text, item_text, time_ms) AS
    left(sha1(user_text || '|' || item_text || '|' || (time_ms // 1000)), 32);
"""
"""`numeric_id` and `event_id` as below, for many rows at a time."""

_decimal = re.compile("0|[1-9][0-9]{0,17}")


def numeric_id(text: str) -> int:
    """The id of a user or item, in [0, 2**63).

    >>> numeric_id("7188"), numeric_id("A39HTATAQ9V7YF")
    (7188, 6225908972979923808)
    """
    if _decimal.fullmatch(text):
        return int(text)
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def event_id(user: str, item: str, time_ms: int) -> str:
    """First 32 hexadecimal digits of the SHA-1 of `user|item|seconds`."""
    text = f"{user}|{item}|{time_ms // 1000}"
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:32]
