"""Hot swap: the version to answer from, loaded and tried beside the one that answers.

The pointer `current.json` (the newest version built) and the switch `served.json` (the version
that answers) are looked at several times a second. What is to serve is verified, loaded and asked
a first question before it takes over, and taking over is replacing one reference: a request under
way ends with what it began with. Files are mapped into memory, and what two versions share is
loaded and verified once, so that a swap costs what differs. A damaged snapshot never takes over;
the last good one stays, and it is tried again. At a start with a damaged snapshot the newest sound
one answers.

What is hidden or withdrawn is taken out of whatever answers, also of an older version that does not
know of it, as soon as the properties of items say so. While these are damaged, what they said last
holds.

A newer version than the served one is a challenger: it takes over once the judge finds it not
worse, unless a person pinned a version. Whoever moves the switch is followed at the next look.
Where the version that it names cannot be read, the newest takes its place, and the record says so;
where a person pinned it, what answers goes on, with the items that were listed since.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import structlog

from deploy.monitoring import full_disk
from deploy.release.decisions import SERVED, Decision, ServingSwitch, decide, decisions, read_served
from deploy.release.judge import Judge
from indexer.building.late_items import LateItems
from indexer.catalogue import property_reader
from indexer.catalogue.forgotten_items import without_forgotten
from indexer.catalogue.item_columns import ItemColumns
from indexer.catalogue.property_reader import PropertyReader
from indexer.errors import SnapshotError
from indexer.lists.device_rows import DeviceRows
from indexer.search.config import SearchConfig
from indexer.search.query import Query
from indexer.search.retriever import Retriever, Texts
from indexer.snapshots.pointer import POINTER, SNAPSHOTS, Pointer, read_pointer
from indexer.snapshots.snapshot import Snapshot
from indexer.snapshots.snapshot_reading import ModelLoader, load_served, load_version, versions
from model.artifacts.verified_files import VerifiedFiles
from streaming.freed_memory import give_back, let_go_of_files

log = structlog.get_logger(__name__)


class SnapshotFollower:
    """Holds the `Retriever` to answer from.

    Without a judge the newest version is served as soon as it is built, unless one is pinned; with
    `follow_decisions`, once the judge of another process has promoted it.

    Attributes:
        retriever: to be read once per request; None before the first snapshot.
        pointer: the newest version built; None where `retriever` is a substitute for it.
        challenger: version that waits for its verdict, None if none does.
        decided: newest version about which there is a decision, or that serves.
        swaps: how often a retriever took over.
        failures: how often loading failed.
        last_error: of the last attempt, empty if it went well.
        load_seconds: what the last load took.
        search: how queries are searched.
        device: where; None for the CPU.
        texts: knows what items are called that were clicked and never listed.
        served: is told of every version that takes over.
        swapped: is told of every retriever that does: of a version, or of one with more items
            appended, or withdrawn.
        verified: files that were read, which versions share.
        properties: of the items, read as they change.
        columns: what holds of every item now, whatever version answers.
        changed: is told of them when they have changed.
    """

    def __init__(
        self,
        data_dir: Path,
        search: SearchConfig,
        retry_seconds: float = 1.0,
        load_model: ModelLoader | None = None,
        clock: Callable[[], float] = time.monotonic,
        judge: Judge | None = None,
        follow_decisions: bool = False,
        device: DeviceRows | None = None,
    ) -> None:
        self._data_dir = data_dir
        self.search = search
        self.device = device
        self._retry_seconds = retry_seconds
        self._load_model = load_model
        self._clock = clock
        self._judge = judge
        self._decided_elsewhere = follow_decisions
        self.verified = VerifiedFiles()
        self._newcomers = LateItems(data_dir, self.verified)
        self._seen: object = ()
        self._retry_at = float("inf")
        self._challenging: Retriever | None = None
        self._challenged_at = 0.0
        made = [d.version for d in decisions(data_dir) if d.by == "judge"]
        self._judged = made[-1] if made else 0
        self.retriever: Retriever | None = None
        self.pointer: Pointer | None = None
        self.pinned = False
        self.texts: Texts = lambda _: {}
        self.served: Callable[[Retriever], None] = lambda _: None
        self.swapped: Callable[[Retriever], None] = lambda _: None
        self.properties = PropertyReader(data_dir, self.verified)
        self.columns = self.properties.columns
        self.changed: Callable[[ItemColumns], None] = lambda _: None
        self._unread = ""  # why the properties are not
        self.swaps = 0
        self.failures = 0
        self.last_error = ""
        self.load_seconds = 0.0

    @property
    def challenger(self) -> int | None:
        """Version that waits for its verdict."""
        challenging = self._challenging
        return challenging.version if challenging else None

    @property
    def decided(self) -> int:
        """Newest version about which there is a decision, or that serves."""
        retriever = self.retriever
        return max(self._judged, retriever.version if retriever else 0)

    def poll(self) -> bool:
        """Look at pointer and switch, load and judge what is new; whether a retriever took over."""
        seen = self._fingerprint()
        waiting = self._challenging is not None
        if seen == self._seen and not waiting and self._clock() < self._retry_at:
            return False
        self._seen, self._retry_at = seen, float("inf")
        before = self.retriever
        try:
            self._follow()
        except (ValueError, RuntimeError, OSError) as error:
            self._failed(error)
            return False
        self.last_error = ""
        after = self.retriever
        if after is before:
            return False
        new = before is None or after is None or after.version != before.version
        del before
        if new and after is not None:
            give_back()  # what the one before took; more items appended free next to nothing
            let_go_of_files(self._data_dir / SNAPSHOTS, after.snapshot.mapped_arrays())
        return True

    def _fingerprint(self) -> object:
        found: list[tuple[int, int] | None] = []
        for name in (POINTER, SERVED, *property_reader.FILES):
            try:
                stat = (self._data_dir / name).stat()
            except OSError:
                found.append(None)
            else:
                found.append((stat.st_ino, stat.st_mtime_ns))
        return tuple(found)

    def _follow(self) -> None:
        self._follow_properties()
        pointer, served = read_pointer(self._data_dir), read_served(self._data_dir)
        self.pinned = served is not None and served.pinned
        if pointer is None:
            return
        self.pointer = pointer
        wanted = pointer.version
        judged = self._judge is not None or self._decided_elsewhere
        if served is not None and (judged or served.pinned):
            wanted = served.version
        if wanted == pointer.version:
            self._challenging = None
            self._serve(self._served)
        elif self.retriever is None or self.retriever.version != wanted:
            try:
                self._serve(lambda: self.version(wanted))
            except (ValueError, RuntimeError, OSError) as error:
                if served is None or served.pinned or self._judge is None:
                    self._bring_newcomers(pointer)
                    raise
                self._replace(served, pointer, error)
        if self._judge is not None and self.retriever is not None:
            if served is None:
                first = Decision(wanted, "first", "judge", "the first version served")
                decide(self._data_dir, first)
                self._judged = max(self._judged, wanted)
            elif pointer.version not in (served.version, self._judged):
                self._consider(pointer, served)
        self._bring_newcomers(pointer)

    def _replace(self, served: ServingSwitch, pointer: Pointer, error: Exception) -> None:
        """Serve the newest version where the one that should answer cannot be read."""
        snapshot = self._served()
        if snapshot is None or snapshot.version != pointer.version:
            return  # the pointer moved meanwhile; the next look sees it
        ready = self.ready(snapshot)
        log.error("served version unreadable", version=served.version, reason=str(error))
        reason = f"version {served.version} cannot be read"
        decision = Decision(pointer.version, "promoted", "judge", reason, served.version)
        if self._decide(decision, served):
            self._challenging = None
            self._swap(ready)

    def _bring_newcomers(self, pointer: Pointer) -> None:
        """Add to what answers the items that were listed since it was built."""
        if self.retriever is None:
            return
        if self.retriever.version == pointer.version:
            self._serve(self._served)  # also where it answers in the place of another
            return
        with_new = self._newcomers.added_to(self.retriever.snapshot, pointer)
        if with_new is not self.retriever.snapshot:
            self._take_over(with_new)

    def _follow_properties(self) -> None:
        """Bring what answers, and what may answer next, to what holds of the items now."""
        try:
            columns = self.properties.read()
        except SnapshotError as error:
            self._retry_at = self._clock() + self._retry_seconds  # it may have been the disk's mood
            if str(error) != self._unread:
                log.error("properties of items unknown", reason=str(error), known=len(self.columns))
            self._unread = str(error)
            return
        self._unread = ""
        if columns is self.columns:
            return
        self.columns = columns
        self.changed(columns)
        if self._challenging is not None:
            self._challenging = self._challenging.with_columns(columns)
        if self.retriever is not None:
            self._swap(self.retriever.with_columns(columns))

    def _served(self) -> Snapshot | None:
        """What the pointer names; costs what differs from what answers."""
        loaded = self.retriever.snapshot if self.retriever else None
        return load_served(self._data_dir, self._load_model, loaded, self.verified)

    def version(self, version: int) -> Snapshot:
        """A version from disk, which shares with what answers what is the same.

        It is without what was withdrawn so long ago that nobody knows it any more.
        """
        loaded = self.retriever.snapshot if self.retriever else None
        found = load_version(
            self._data_dir, version, self._load_model, held=loaded, verified=self.verified
        )
        return without_forgotten(found, self.properties)

    def _serve(self, load: Callable[[], Snapshot | None]) -> None:
        began = self._clock()
        snapshot = load()
        if snapshot is not None and (
            self.retriever is None or snapshot is not self.retriever.snapshot
        ):
            self._take_over(snapshot)
            self.load_seconds = self._clock() - began

    def _consider(self, pointer: Pointer, served: ServingSwitch) -> None:
        """Judge the newest version; it takes over, is kept, or waits for events."""
        assert self._judge is not None and self.retriever is not None  # noqa: S101 - see _follow
        challenging = self._challenging
        if challenging is None or challenging.version != pointer.version:
            if challenging is not None:
                reason = f"version {pointer.version} was built before there was a verdict"
                self._decide(Decision(challenging.version, "superseded", "judge", reason), served)
                self._challenging = None
            if served.pinned:
                reason = f"version {served.version} is pinned"
                self._decide(Decision(pointer.version, "kept", "judge", reason), None)
                return
            began = self._clock()
            snapshot = self._served()
            if snapshot is None or snapshot.version != pointer.version:
                return  # the pointer moved meanwhile; the next look sees it
            challenging = self._challenging = self.ready(snapshot)
            self.load_seconds = self._clock() - began
            self._challenged_at = self._clock()
        waited = self._clock() - self._challenged_at
        verdict = self._judge.verdict(self.retriever, challenging, waited)
        if verdict is None:
            return
        decision = Decision(
            challenging.version,
            "promoted" if verdict.promote else "kept",
            "judge",
            verdict.reason,
            served.version,
            verdict.evidence,
        )
        decided = self._decide(decision, served)  # where that cannot be written it waits, loaded
        self._challenging = None
        if decided and verdict.promote:
            self._swap(challenging)

    def _decide(self, decision: Decision, served: ServingSwitch | None) -> bool:
        decided = decide(
            self._data_dir, decision, if_served=served.version if served is not None else None
        )
        self._judged = decision.version
        return decided

    def _take_over(self, snapshot: Snapshot) -> None:
        self._swap(self.ready(snapshot))

    def ready(self, snapshot: Snapshot) -> Retriever:
        """A snapshot able to answer, and tried."""
        texts: Texts = lambda ids: self.texts(ids)  # noqa: E731 - as it is then
        retriever = Retriever(snapshot, self.search, self.columns, texts, self.device)
        retriever.answer(Query([]))  # a model that cannot answer must not take over
        return retriever

    def _swap(self, retriever: Retriever) -> None:
        before, self.retriever = self.retriever, retriever
        self.swaps += 1
        if before is None or before.version != retriever.version:
            self.served(retriever)
        self.swapped(retriever)
        log.info(
            "snapshot serves",
            version=retriever.version,
            before=before.version if before else None,
            items=retriever.retrievable,
            appended=len(retriever.snapshot.appended_items),
            unlisted=len(self.columns.unlisted),
        )

    def _failed(self, error: Exception) -> None:
        self._retry_at = self._clock() + self._retry_seconds
        self.failures += 1
        self.pointer = None if self.retriever is None else self.pointer
        reason, known = str(error), str(error) == self.last_error
        if full_disk.is_full(error):  # a decision that cannot be written
            reason = full_disk.sentence(full_disk.where(error, self._data_dir))
            known = full_disk.says_full(self.last_error)
        if not known:
            log.error(
                "snapshot refused",
                reason=reason,
                serving=self.retriever.version if self.retriever else None,
            )
        self.last_error = reason
        if self.retriever is None:
            self._fall_back()

    def _fall_back(self) -> None:
        """Serve the newest sound snapshot on disk instead of nothing."""
        for version in reversed(versions(self._data_dir)):
            try:
                self._take_over(self.version(version))
                return
            except (ValueError, RuntimeError, OSError) as error:
                log.error("snapshot refused", reason=str(error), version=version)
