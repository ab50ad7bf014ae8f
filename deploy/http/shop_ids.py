"""Ids at the service's edges: a shop's own text or number in, 64-bit numbers inside.

A text becomes its number (`streaming.ids`), so the service needs no table: `"A39HTATAQ9V7YF"`,
`"42"` and `42` are all understood. What a browser reads holds ids as text, since JavaScript rounds
numbers beyond 2**53.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from streaming.ids import LONGEST_ID, shop_id

SMALLEST, BEYOND = -(2**63), 2**63
FIELDS = frozenset({"user_id", "item_id"})
"""What holds an id in an answer."""


def number_of(value: Any) -> Any:
    """The number of an id that is given as text; anything else as it is.

    Raises:
        ValueError: if the text is empty or too long.
    """
    return shop_id(value)[0] if isinstance(value, str) else value


_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": SMALLEST, "maximum": BEYOND - 1},
        {"type": "string", "minLength": 1, "maxLength": LONGEST_ID, "pattern": r"\S"},
    ]
}
Id = Annotated[
    int,
    Field(strict=True, ge=SMALLEST, lt=BEYOND),
    BeforeValidator(number_of),
    WithJsonSchema(_SCHEMA),
]
"""An id in a request: the shop's text, or the number."""


def with_ids_as_text(value: Any) -> Any:
    """A plain JSON value whose ids are texts, for a browser.

    >>> with_ids_as_text({"users": [{"user_id": 6225908972979923808, "clicks": 3}]})
    {'users': [{'user_id': '6225908972979923808', 'clicks': 3}]}
    """
    if isinstance(value, dict):
        return {
            key: str(part) if key in FIELDS and type(part) is int else with_ids_as_text(part)
            for key, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [with_ids_as_text(part) for part in value]
    return value
