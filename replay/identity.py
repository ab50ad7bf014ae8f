"""The identity of an event of a log, and both kinds of ids for many rows at a time.

An event is identified by the SHA-1 of `user|item|seconds`, with user and item as they stand in
the file, and of `user|item|seconds|type` where it is no click; its hexadecimal form also orders
events of equal time (the canonical order). The numbers of ids are those of `streaming.ids`.
"""

from __future__ import annotations

import hashlib

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
"""`numeric_id` of `streaming.ids`, and `event_id` as below."""


def event_id(user: str, item: str, time_ms: int, event_type: str = CLICK) -> str:
    """First 32 hexadecimal digits of the SHA-1 of `user|item|seconds`, or with the type."""
    text = f"{user}|{item}|{time_ms // 1000}"
    if event_type != CLICK:
        text += f"|{event_type}"
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:32]
