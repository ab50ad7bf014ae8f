"""How long items live: when they are withdrawn by themselves, and when they are forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streaming.bounds import DAY_MS

MOST_DAYS = 10_000_000
"""As good as never; so many in milliseconds before or after any time are an int64."""


@dataclass(frozen=True)
class ItemsConfig:
    """How long items live, by the clock of the log: that of the newest event that was learnt.

    Attributes:
        ttl_days: an item is withdrawn by itself after so long; None: never.
        ttl_by: what that is counted from: "listing", when the item was first listed, or
            "last_event", the last click on it, or its listing where that is later. Of an item that
            was never listed it is the last click either way.
        grace_days: so long after it was withdrawn an item is forgotten wholly: its row in the
            model is another item's then, and one that is listed or clicked again is a new item.
            Until then what is known of it is kept, for one that comes back.
    """

    ttl_days: float | None = None
    ttl_by: Literal["listing", "last_event"] = "listing"
    grace_days: float = 1.0

    def __post_init__(self) -> None:
        if self.ttl_days is not None and not 0 < self.ttl_days <= MOST_DAYS:
            raise ValueError(
                f"items.ttl_days is {self.ttl_days}; use more than 0, at most {MOST_DAYS}, "
                "or leave it out"
            )
        if not 0 <= self.grace_days <= MOST_DAYS:
            raise ValueError(f"items.grace_days is {self.grace_days}; use 0 to {MOST_DAYS}")

    @property
    def ttl_ms(self) -> int | None:
        """The same in milliseconds."""
        return None if self.ttl_days is None else int(self.ttl_days * DAY_MS)

    @property
    def grace_ms(self) -> int:
        """The same in milliseconds."""
        return int(self.grace_days * DAY_MS)
