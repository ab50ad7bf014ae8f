"""Ids as shops have them: a text or a number outside, a number of 64 bits inside.

An id is any text of 1 to 256 bytes in UTF-8, or an integer of 64 bits. White space at a text's
ends is no part of it (what `str.strip` takes away); otherwise a text is taken as it is, so that
case, and letters that Unicode can write in two ways, make two ids. A text that is a number as one
writes it (no plus, space or leading zero) is that number: `"42"` and `42` are the same.

Any other text (Amazon's `A39H...` and `B000...`, a UUID, an ISBN `0000000019`) becomes the upper 63
bits of its SHA-1's first 8 bytes. The number depends on the text alone: it is the same in every
file, run, machine and release, without a table, and in Java (`Id.java`) and DuckDB
(`replay.identity`). An integer that has the number of a text means that text's user or item.

Among ten million texts the chance that two have one number is 5e-6. Who knows the text that a
number had before refuses another: the replay within a log, the job for users, the indexer for
items.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from streaming.bounds import EventError, integer, within_64_bits

LONGEST_ID = 256
"""Bytes of an id in UTF-8."""

_number = re.compile("0|-?[1-9][0-9]{0,18}", re.ASCII)


def numeric_id(text: str) -> int:
    """The number of a user or item, in [-2**63, 2**63); that of a text is not negative.

    >>> numeric_id("7188"), numeric_id("A39HTATAQ9V7YF")
    (7188, 6225908972979923808)
    """
    if _number.fullmatch(text) and -(2**63) <= (number := int(text)) < 2**63:
        return number
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def shop_id(given: str) -> tuple[int, str]:
    """The number of an id that is given as text, and the text, which is empty where it is a number.

    >>> shop_id(" A39HTATAQ9V7YF"), shop_id("42")
    ((6225908972979923808, 'A39HTATAQ9V7YF'), (42, ''))

    Raises:
        ValueError: if it is empty, too long, or no valid Unicode.
    """
    text = given.strip()
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("is no valid Unicode") from None
    if not 0 < size <= LONGEST_ID:
        raise ValueError(f"is {size} bytes long, an id has 1 to {LONGEST_ID}")
    number = numeric_id(text)
    return number, "" if text == str(number) else text


def id_of(
    record: dict[str, Any], field: str, least: int = -(2**63), *, texts: bool = True
) -> tuple[int, str]:
    """The id in a field of a record: its number, and the text where it is one.

    Args:
        record: of a topic.
        field: its name.
        least: what the number must not be below.
        texts: whether the record's schema knows ids that are strings.

    Raises:
        EventError: naming the field.
    """
    value = record.get(field)
    if not isinstance(value, str):
        return integer(record, field, least), ""
    if not texts:
        raise EventError(f"{field} is a string, which needs schema_version 2")
    try:
        number, text = shop_id(value)
    except ValueError as error:
        raise EventError(f"{field} {error}") from error
    return within_64_bits(field, number, least), text


def own_text(number: int, external_id: str) -> str:
    """The external id of an item where the item has its number from it; else empty.

    >>> own_text(6225908972979923808, "A39HTATAQ9V7YF"), own_text(7, "A39HTATAQ9V7YF")
    ('A39HTATAQ9V7YF', '')
    """
    return external_id if external_id and numeric_id(external_id) == number else ""


def collision(number: int, known: str, said: str) -> str:
    """Why an item cannot be called so: its number is that of another text. Empty if it can.

    Args:
        number: of the item.
        known: its external id until now; empty if there is none.
        said: its external id as it is said to be.
    """
    if not known or not said or known == said:
        return ""
    if not own_text(number, known) or not own_text(number, said):
        return ""
    return f"{said!r} has the number of another item, {known!r}"
