"""The arms of a split: what answers whose queries.

The split is followed as the served version is: every worker looks at `split.json` several times a
second. An arm of the served version searches the same snapshot in its own way; an arm of another
version holds that beside it, and shares with it what is the same. Both have the items that were
listed since, and none that was withdrawn. Where an arm cannot be loaded, its users are answered as
all others are, and the answers say so.
"""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from deploy.release.split import DEFAULT, SPLIT, Arm, Split, SplitError, read_split
from deploy.service.snapshot_follower import SnapshotFollower
from indexer.building.late_items import LateItems
from indexer.search.query import Query
from indexer.search.retriever import Retriever
from indexer.snapshots.snapshot import Snapshot

log = structlog.get_logger(__name__)

RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class Arms:
    """What answers, as of one moment; a request asks once, and keeps it to its end.

    Attributes:
        default: answers who is in no arm.
        split: that runs.
        retrievers: of its arms, by name; one that could not be loaded is missing.
    """

    default: Retriever
    split: Split | None = None
    retrievers: Mapping[str, Retriever] = field(default_factory=dict)

    def of(self, user_id: int | None) -> tuple[str | None, Retriever]:
        """The arm that answers a user, None without a split, and what answers."""
        if self.split is None:
            return None, self.default
        arm = self.split.arm_of(user_id)
        if arm is None or arm.shadow or arm.name not in self.retrievers:
            return DEFAULT, self.default
        return arm.name, self.retrievers[arm.name]

    def shadow_of(self, user_id: int | None) -> tuple[str, Retriever] | None:
        """The arm that answers a user into the log."""
        arm = self.split.arm_of(user_id) if self.split is not None else None
        if arm is None or not arm.shadow or arm.name not in self.retrievers:
            return None
        return arm.name, self.retrievers[arm.name]


@dataclass
class _Held:
    """What an arm answers from, and, where that is a version of its own, what was listed since."""

    arm: Arm
    retriever: Retriever
    late: LateItems | None


class ArmFollower:
    """Follows the split, and keeps what its arms answer from; polled by one thread.

    Attributes:
        problem: why an arm does not answer, or the split is not known; empty if all is well.
    """

    def __init__(
        self,
        data_dir: Path,
        follower: SnapshotFollower,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._data_dir = data_dir
        self._follower = follower
        self._clock = clock
        self._seen: object = ()
        self._split: Split | None = None
        self._unread = ""
        self._held: dict[str, _Held] = {}
        self._failed: dict[str, str] = {}
        self._retry_at = float("inf")
        self._made_of: tuple[object, ...] = ()
        self._current: tuple[Split | None, Mapping[str, Retriever]] = (None, {})
        self.problem = ""

    def now(self) -> Arms | None:
        """What answers now; None before the first snapshot."""
        split, retrievers = self._current
        default = self._follower.retriever
        return Arms(default, split, retrievers) if default is not None else None

    def run(self, stop: threading.Event, poll_seconds: float) -> None:
        """Poll until `stop` is set."""
        while not stop.is_set():
            self.poll()
            stop.wait(poll_seconds)

    def poll(self) -> None:
        """Look at what is served and at the split, and bring the arms to it."""
        follower = self._follower
        follower.poll()
        self._read()
        made_of = self._split, follower.retriever, follower.pointer, follower.columns
        if _same(self._made_of, made_of) and self._clock() < self._retry_at:
            return
        self._made_of, self._retry_at = made_of, float("inf")
        self._held = self._bring()
        if self._failed:
            self._retry_at = self._clock() + RETRY_SECONDS
        retrievers = {name: one.retriever for name, one in self._held.items()}
        self._current = (self._split, retrievers)
        problem = "; ".join(filter(None, [self._unread, *self._failed.values()]))
        if problem and problem != self.problem:
            log.error("split not carried out in full", reason=problem)
        self.problem = problem

    def _read(self) -> None:
        try:
            stat = (self._data_dir / SPLIT).stat()
            seen: object = (stat.st_ino, stat.st_mtime_ns)
        except OSError:
            seen = None
        if seen == self._seen:
            return
        try:
            self._split, self._unread = read_split(self._data_dir), ""
        except SplitError as error:  # what it said last holds, and it is looked at again
            if str(error) != self._unread:
                self._made_of = ()
            self._seen, self._unread = (), str(error)
            return
        self._seen, self._made_of = seen, ()

    def _bring(self) -> dict[str, _Held]:
        """What each arm answers from now.

        An arm that cannot be brought there stays as it was, but for what must not be answered.
        """
        self._failed, held = {}, {}
        default = self._follower.retriever
        if self._split is None or default is None:
            return {}
        for arm in self._split.arms:
            try:
                held[arm.name] = self._brought(arm, default)
            except (ValueError, RuntimeError, OSError) as error:
                self._failed[arm.name] = f"arm {arm.name!r}: {error}"
                before = self._held.get(arm.name)
                if before is not None and before.arm == arm:
                    retriever = before.retriever.with_columns(self._follower.columns)
                    held[arm.name] = replace(before, retriever=retriever)
        return held

    def _brought(self, arm: Arm, default: Retriever) -> _Held:
        """What the arm answers from now; costs what differs from what it had."""
        before = self._held.get(arm.name)
        if before is not None and before.arm != arm:
            before = None
        late = None
        if arm.version is None or arm.version == default.version:
            snapshot = default.snapshot
        else:
            own = before is not None and before.retriever.version == arm.version
            late = before.late if before is not None and own else None
            held = before.retriever.snapshot if before is not None and late is not None else None
            late = late or LateItems(self._data_dir, self._follower.verified)
            snapshot = self._of_version(arm.version, held, late)
        if before is not None and before.retriever.snapshot is snapshot:
            retriever = before.retriever.with_columns(self._follower.columns)
        else:
            search = arm.searched(self._follower.search)
            same = default if snapshot is default.snapshot else self._follower.ready(snapshot)
            retriever = same.searched_by(search)
            retriever.answer(Query([]))  # settings that cannot answer must not take over
        return _Held(arm, retriever, late)

    def _of_version(self, version: int, held: Snapshot | None, late: LateItems) -> Snapshot:
        """The version, with what was listed since."""
        snapshot = held or self._follower.version(version)
        pointer = self._follower.pointer
        return late.added_to(snapshot, pointer) if pointer is not None else snapshot


def _same(before: tuple[object, ...], after: tuple[object, ...]) -> bool:
    return len(before) == len(after) and all(map(operator.is_, before, after))
