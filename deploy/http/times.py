"""Times at the service's edges: milliseconds since 1970, and another unit is refused by name."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from streaming.bounds import in_milliseconds

TimeMs = Annotated[
    int,
    Field(strict=True, ge=0, lt=2**63),
    AfterValidator(lambda time: in_milliseconds("the time", time)),
]
"""A time in a request, of a click, an item or a query."""
