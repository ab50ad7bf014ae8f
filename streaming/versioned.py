"""Facts that one part writes and another reads, perhaps of another version of this program.

Whoever changes what a field means, or takes one away, raises the type's `VERSION`. What a reader
does about another version is its own matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError


class Versioned(BaseModel):
    """Facts that hold the version of who wrote them; fields that are not known are kept.

    Attributes:
        schema_version: `VERSION` of who wrote them; 0 before there was one.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    VERSION: ClassVar[int] = 1

    schema_version: int = 0

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """From JSON; a field that is not what it should be counts as not said."""
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            wrong = {one["loc"][0] for one in error.errors()}
            return cls.model_validate({k: v for k, v in body.items() if k not in wrong})

    def to_json(self) -> dict[str, Any]:
        """What was said, also what only a newer version knows."""
        return self.model_dump(exclude_unset=True)
