"""Numbers for the ids of a log, and the identity of an event.

The pipeline's ids are int64. A number of 64 bits as one writes it (no plus, space or leading zero)
keeps its value; any other text (Amazon's `A39H...` and `B000...`, an ISBN `0000000019`) becomes the
upper 63 bits of its SHA-1's first 8 bytes. The number depends on the text alone: it is the same in
every file, run and release, without a table, and no id changes when the log grows. Among ten
million texts the chance of one collision is 5e-6.

An event is identified by the SHA-1 of `user|item|seconds`, with user and item as they stand in
the file, and of `user|item|seconds|type` where it is no click; its hexadecimal form also orders
events of equal time (the canonical order).
"""

from __future__ import annotations

import hashlib
import re

from streaming.events import CLICK

DUCKDB_MACROS = f"""
CREATE MACRO is_number(text) AS regexp_full_match(text, '0|-?[1-9][0-9]{{0,18}}')
    AND TRY_CAST(text AS BIGINT) IS NOT NULL;
CREATE MACRO numeric_id(text) AS CASE WHEN is_number(text) THEN TRY_CAST(text AS BIGINT)
    ELSE (('0x' || left(sha1(text), 16))::UBIGINT >> 1)::BIGINT END;
CREATE MACRO event_id(user_text, item_text, time_ms, event_type) AS
    left(sha1(user_text || '|' || item_text || '|' || (time_ms // 1000)
    || CASE event_type WHEN '{CLICK}' THEN '' ELSE '|' || event_type END), 32);
"""
"""`numeric_id` and `event_id` as below, for many rows at a time."""

_number = re.compile("0|-?[1-9][0-9]{0,18}", re.ASCII)


def numeric_id(text: str) -> int:
    """The id of a user or item, in [-2**63, 2**63); that of a text is not negative.

    >>> numeric_id("7188"), numeric_id("A39HTATAQ9V7YF")
    (7188, 6225908972979923808)
    """
    if _number.fullmatch(text) and -(2**63) <= (number := int(text)) < 2**63:
        return number
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def event_id(user: str, item: str, time_ms: int, event_type: str = CLICK) -> str:
    """First 32 hexadecimal digits of the SHA-1 of `user|item|seconds`, or with the type."""
    text = f"{user}|{item}|{time_ms // 1000}"
    if event_type != CLICK:
        text += f"|{event_type}"
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:32]
