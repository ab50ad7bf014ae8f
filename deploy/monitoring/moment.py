"""When something was said, in a way that one process can compare with another's.

The wall clock is for people: it is put back and forward, by hand, by NTP, by a virtual machine that
wakes up. Ages and waits are measured by the kernel's monotonic clock, which is the same for every
process of a machine until the next boot. What was said before that boot, or on another machine,
can only be dated by the wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@cache
def boot() -> str:
    """What tells this run of this machine's kernel from every other; empty where it has no name."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        return ""


class Moment(NamedTuple):
    """One point in time, by both clocks.

    Attributes:
        boot: of the kernel whose clock `seconds` is read from; empty where unknown.
        seconds: monotonic, from any origin.
        wall: seconds since 1970.
    """

    boot: str
    seconds: float
    wall: float

    def since(self, earlier: Moment) -> float:
        """Seconds from an `earlier` moment to this one; by the wall clock where it has to be.

        >>> Moment("a", 7.0, 1000.0).since(Moment("a", 5.0, 4600.0))  # put back by an hour
        2.0
        >>> Moment("b", 7.0, 1000.0).since(Moment("a", 5.0, 990.0))  # another machine
        10.0
        """
        if self.boot and self.boot == earlier.boot:
            return self.seconds - earlier.seconds
        return self.wall - earlier.wall

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form."""
        return self._asdict()

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Moment:
        """Read `to_json`'s form back.

        Raises:
            ValueError: if it is none.
        """
        try:
            return cls(str(body["boot"]), float(body["seconds"]), float(body["wall"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a moment: {body!r}") from error


def now() -> Moment:
    """This moment."""
    return Moment(boot(), time.monotonic(), time.time())
