"""Splits: a share of the users is answered by another version, or by other search settings.

`split.json` of the data directory holds the split that runs; where it is absent everybody is
answered alike. Each arm has a name, a share of the users, and what is different for them. A
*shadow* arm is asked about its users, too, but answers into the log only. Who is in no arm is in
`default`.

A user belongs to an arm by a hash of the split's name and the user's id, on every machine and in
every release: it stays there as long as the arms before it keep their shares, and two splits of
different names divide the users independently of each other. Who asks without a user's id is in
`default`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson
import structlog
from pydantic import TypeAdapter, ValidationError

from indexer.errors import IndexerError
from indexer.search.config import ExplorationConfig, SearchConfig
from streaming.durable_files import write_atomically

log = structlog.get_logger(__name__)

SPLIT = "split.json"
DEFAULT = "default"
MOST_ARMS = 8
"""Each is a search of its own in memory."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ANY: TypeAdapter[SearchConfig] = TypeAdapter(SearchConfig)
_OF_ALL = ("explore", "device", "device_memory_mib")
"""What no arm has of its own: a group of settings, and where the service searches."""


class SplitError(ValueError):
    """A split makes no sense, or its file is malformed; the message names the field."""


@dataclass(frozen=True)
class Arm:
    """Users who are answered in another way.

    Attributes:
        name: of the arm.
        share: of all users, above 0, at most 1.
        version: the indexer's number of the version that answers; None: the served one.
        search: settings of `[search]` that differ, as `codes` or `explore.untouched`.
        shadow: the answer goes into the log only, and the users get what `default` answers.
    """

    name: str
    share: float
    version: int | None = None
    search: Mapping[str, Any] = field(default_factory=dict)
    shadow: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name == DEFAULT:
            raise SplitError(
                f"arm {self.name!r}: a name has 1 to 64 letters, digits, '.', '_' and '-', and is "
                f"not {DEFAULT!r}, which is the arm of all others"
            )
        if not 0 < self.share <= 1:
            raise SplitError(f"arm {self.name!r}: share is {self.share}: use above 0, at most 1")

    def searched(self, search: SearchConfig) -> SearchConfig:
        """How its queries are searched, where others are searched as `search` says.

        Raises:
            SplitError: for a setting that there is not, or a value that it does not take.
        """
        known = [one.name for one in fields(SearchConfig) if one.name not in _OF_ALL]
        known += [f"explore.{one.name}" for one in fields(ExplorationConfig)]
        told: dict[str, Any] = asdict(search)
        for key, value in self.search.items():
            if key not in known:
                raise SplitError(
                    f"arm {self.name!r}: [search] has no setting {key!r} of an arm; there are "
                    f"{', '.join(known)}"
                )
            within, _, name = key.rpartition(".")
            (told[within] if within else told)[name] = value
        try:
            return _ANY.validate_python(told)
        except ValidationError as error:
            first = error.errors()[0]
            words = first["msg"].removeprefix("Value error, ")
            where = ".".join(["search", *map(str, first["loc"])])
            raise SplitError(f"arm {self.name!r}: {where}: {words}") from error
        except IndexerError as error:
            raise SplitError(f"arm {self.name!r}: {error}") from error


@dataclass(frozen=True)
class Split:
    """A split of the users.

    Attributes:
        name: of the split; it salts the hash.
        arms: in the order in which they take their shares.
        at_ms: when it was set; its answers count from then on.
    """

    name: str
    arms: tuple[Arm, ...]
    at_ms: int = 0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise SplitError(
                f"split {self.name!r}: a name has 1 to 64 letters, digits, '.', '_' and '-'"
            )
        if not 1 <= len(self.arms) <= MOST_ARMS:
            raise SplitError(f"arms: there are {len(self.arms)}; use 1 to {MOST_ARMS}")
        names = [arm.name for arm in self.arms]
        if twice := {name for name in names if names.count(name) > 1}:
            raise SplitError(f"arms: {min(twice)!r} is there twice")
        total = sum(arm.share for arm in self.arms)
        if total > 1 + 1e-9:
            raise SplitError(f"arms: the shares add up to {total:g}; use at most 1 in all")

    def arm_of(self, user_id: int | None) -> Arm | None:
        """The arm of a user; None: `default`."""
        if user_id is None:
            return None
        place, reached = place_of(self.name, user_id), 0.0
        for arm in self.arms:
            reached += arm.share
            if place < reached:
                return arm
        return None


def place_of(salt: str, user_id: int) -> float:
    """Where a user lies between 0 and 1, the same for ever.

    >>> round(place_of("colours", 42), 6), round(place_of("sizes", 42), 6)
    (0.160767, 0.905317)
    """
    digest = blake2b(f"{salt}\0{user_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def read_split(data_dir: Path) -> Split | None:
    """The split of a data directory; None where there is none.

    Raises:
        SplitError: if the file is malformed.
    """
    path = data_dir / SPLIT
    try:
        body = orjson.loads(path.read_bytes())
        arms = tuple(
            Arm(
                str(one["name"]),
                float(one["share"]),
                None if one["version"] is None else int(one["version"]),
                dict(one["search"]),
                bool(one["shadow"]),
            )
            for one in body["arms"]
        )
        return Split(str(body["name"]), arms, int(body["at_ms"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise SplitError(
            f"{path}: malformed ({error!r}); set it anew with `sparc split set`, or end it with "
            "`sparc split stop`"
        ) from error


def set_split(data_dir: Path, split: Split, clock: Callable[[], float] = time.time) -> Split:
    """Have a split take the place of the one that runs, from now on; what was written.

    Raises:
        OSError: if it cannot be written; the one before goes on.
    """
    split = replace(split, at_ms=int(clock() * 1000))
    data_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(data_dir / SPLIT, orjson.dumps(asdict(split), option=orjson.OPT_INDENT_2))
    log.info("split set", name=split.name, arms=[arm.name for arm in split.arms])
    return split


def stop_split(data_dir: Path) -> Split | None:
    """End the split that runs; which one that was, None where none is or it is unreadable."""
    try:
        split = read_split(data_dir)
    except SplitError:
        split = None
    (data_dir / SPLIT).unlink(missing_ok=True)
    if split is not None:
        log.info("split stopped", name=split.name)
    return split


def split_versions(data_dir: Path) -> set[int]:
    """The versions that arms answer from: none of them may be removed from disk.

    Raises:
        SplitError: if the file is malformed.
    """
    split = read_split(data_dir)
    return {arm.version for arm in split.arms if arm.version is not None} if split else set()
