"""What each user clicked last, kept by the service from the topic `sequences`.

Histories lie in rocksdict (raw mode: bytes, nothing pickled), one entry per user, and the offset
they came from goes into the same WriteBatch: a restart resumes behind the last stored record and
neither loses nor repeats one. A record replaces a history only if its position is not behind the
stored one, so records delivered twice do no harm. Without Kafka the last known histories go on
being served.

A user who was forgotten (`streaming.events.Forgotten`) has no history from that record on, and from
the moment when `ForgottenUsers` has noted the request; what the files held of them is then removed
by a compaction of that key.

On disk: column family `users`, key user id (8 bytes, big-endian, signed), value position, event
time, item ids, times (int64, little-endian); column family `item_texts`, key item id, value what
the shop calls the item, in UTF-8, where clicks have said so; column family `offsets`, key
`topic/partition`, value the next offset in decimal; beside them the number of users and the latest
event time; column family `forgotten`, key user id, value the event ids of the last requests that
were carried out, one a line, for as long as there is a note of the user.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import structlog
from rocksdict import (
    AccessType,
    BottommostLevelCompaction,
    CompactOptions,
    Options,
    Rdict,
    WriteBatch,
)

from deploy.ingest.forgotten_users import ForgottenUsers
from deploy.monitoring import full_disk
from deploy.service.user_history import UserHistory, newest_histories, position_of
from streaming.events import Forgotten, UserSequence, parse_sequence
from streaming.poison import parse

log = structlog.get_logger(__name__)

_KEY = ">i8"
_LATEST = b"latest event time"
_COUNT = b"users"
_ERASING = b"files hold what was deleted"


class HistoryStoreError(RuntimeError):
    """The store cannot be opened; the message names its directory."""


class HistoryRecord(NamedTuple):
    """A record of `sequences` as read: where it lay and its bytes."""

    topic: str
    partition: int
    offset: int
    value: bytes | None


REQUESTS = 8
"""Event ids that are kept of a user who was forgotten: requests may be noted in another order."""

Listener = Callable[[list[tuple[int, int, UserSequence]]], None]
"""Takes (partition, offset, sequence) of a stored batch, in the order of each partition."""


class UserHistories:
    """The store: one writer, any number of reading threads.

    `listeners` are told of every batch of (partition, offset, sequence) that was taken in, `forgot`
    of every user who was forgotten, before those of the same batch.

    Where the disk is full the last known histories are read all the same, and nothing is taken in
    until `open_anew` finds room. RocksDB takes nothing after a write that failed; it has to be
    opened again.

    Attributes:
        writable: whether histories can be taken in.

    Raises:
        HistoryStoreError: if another process holds the store, or it cannot be read.
    """

    def __init__(
        self,
        directory: Path,
        listener: Listener | None = None,
        requests: ForgottenUsers | None = None,
    ) -> None:
        self.listeners = [listener] if listener is not None else []
        self.forgot: list[Callable[[int], None]] = []
        self._requests = requests
        self._directory = directory
        self._opening = threading.Lock()
        self._db: Rdict | None = None
        self.writable = False
        self.poisoned = 0
        self.collisions = 0
        """Clicks on an item whose text has the number of another's."""
        self.users = 0
        self.latest_event_time_ms = 0
        self._open()

    def _open(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._take(AccessType.read_write())
            if self._offsets.get(_ERASING) is not None:  # a crash came between
                self._erase()
            self.writable = True
        except Exception as error:  # rocksdict raises bare Exception
            if not full_disk.is_full(error):
                raise HistoryStoreError(
                    f"{self._directory}: user histories cannot be opened ({error}); stop another "
                    "service on this data directory, or delete the folder: it is filled again from "
                    "Kafka"
                ) from error
            self.writable = False
            with suppress(Exception):  # there may be none yet
                self._take(AccessType.read_only(False))

    def _take(self, access: AccessType) -> None:
        # All families that exist must be opened; "default" always does.
        families = {name: _options() for name in ("users", "item_texts", "offsets", "forgotten")}
        db = Rdict(str(self._directory), _options(), column_families=families, access_type=access)
        self._users = db.get_column_family("users")
        self._texts = db.get_column_family("item_texts")
        self._offsets = db.get_column_family("offsets")
        self._forgotten = db.get_column_family("forgotten")
        self._forgotten_handle = db.get_column_family_handle("forgotten")
        self._users_handle = db.get_column_family_handle("users")
        self._texts_handle = db.get_column_family_handle("item_texts")
        self._offsets_handle = db.get_column_family_handle("offsets")
        self._db = db
        self._has_texts = next(iter(self._texts.keys()), None) is not None
        self.users = int(self._offsets.get(_COUNT) or 0)
        self.latest_event_time_ms = int(self._offsets.get(_LATEST) or 0)

    def open_anew(self) -> None:
        """Make the store writable again, if its disk has room; histories can be read meanwhile.

        Raises:
            HistoryStoreError: if it cannot be written yet.
        """
        if full_disk.has_room(self._directory):
            with self._opening:
                self._release()
                self._open()
        if not self.writable:
            raise HistoryStoreError(full_disk.sentence(self._directory))

    def close(self) -> None:
        """Write out what is in memory and release the store."""
        with self._opening:
            self._release()

    def _release(self) -> None:
        if self._db is None:
            return
        # the lock is held as long as these live
        del self._users_handle, self._texts_handle, self._offsets_handle, self._forgotten_handle
        for store in (self._users, self._texts, self._offsets, self._forgotten, self._db):
            with suppress(
                Exception
            ):  # after a write that failed it cannot be flushed: it is logged
                store.close()
        self._db = None
        del self._users, self._texts, self._offsets, self._forgotten

    def get(self, user_id: int) -> UserHistory | None:
        """History of a user, or None where the user is unknown, or is to be forgotten."""
        key = _key(user_id)
        asked = self._requests.asked(user_id) if self._requests is not None else None
        with self._opening:
            if self._db is None:
                return None
            if asked is not None and asked not in _lines(self._forgotten.get(key)):
                return None
            value = self._users.get(key)
        return UserHistory.of(value) if value is not None else None

    def item_texts(self, item_ids: Sequence[int]) -> dict[int, str]:
        """What the shop calls items that were clicked by a text; the others are left out."""
        if not self._has_texts or not item_ids:
            return {}
        with self._opening:
            if self._db is None:
                return {}
            found = [(item, self._texts.get(_key(item))) for item in item_ids]
        return {item: text.decode() for item, text in found if text is not None}

    def next_offsets(self, topic: str) -> dict[int, int]:
        """Partition -> offset of the first record that is not stored yet; none at the beginning."""
        found = {}
        stored: Iterator[tuple[Any, Any]] = self._offsets.items()
        for key, value in stored:
            name, _, partition = key.rpartition(b"/")
            if name == topic.encode():
                found[int(partition)] = int(value)
        return found

    def store(
        self, records: Iterable[HistoryRecord], next_offsets: Mapping[tuple[str, int], int]
    ) -> int:
        """Take records in, and the offsets behind them, in one write; returns how many fitted.

        A record that breaks its schema is logged, counted in `poisoned` and skipped.

        Raises:
            HistoryStoreError: if they cannot be written, or files not be written anew without
                who was forgotten; `open_anew` is due, and what is stored then is told by
                `next_offsets`.
        """
        if self._db is None or not self.writable:
            raise HistoryStoreError(f"{self._directory}: user histories cannot be written")
        taken = list[tuple[int, int, UserSequence]]()
        said = list[UserSequence | Forgotten]()
        for record in records:
            place = {
                "topic": record.topic, "partition": record.partition, "offset": record.offset
            }  # fmt: skip
            one = parse(parse_sequence, None, record.value, place)
            if one is None:
                self.poisoned += 1
                continue
            said.append(one)
            if isinstance(one, UserSequence):
                taken.append((record.partition, record.offset, one))
        latest = max([self.latest_event_time_ms, *(s.event_time for _, _, s in taken)])
        batch = WriteBatch(raw_mode=True)
        newest, forgotten = newest_histories(said)
        added = 0
        for user_id, ids in forgotten.items():
            key = _key(user_id)
            added -= self._users.get(key) is not None
            batch.delete(key, self._users_handle)
            known = [*_lines(self._forgotten.get(key)), *ids][-REQUESTS:]
            batch.put(key, "\n".join(known).encode(), self._forgotten_handle)
        for user_id, history in newest.items():
            key = _key(user_id)
            stored = self._users.get(key) if user_id not in forgotten else None
            if stored is None:
                added += 1
            elif position_of(stored) > history.position:
                continue
            batch.put(key, history.value(), self._users_handle)
        texts = self._put_texts(batch, taken)
        for (topic, partition), offset in next_offsets.items():
            batch.put(b"%s/%d" % (topic.encode(), partition), b"%d" % offset, self._offsets_handle)
        batch.put(_LATEST, b"%d" % latest, self._offsets_handle)
        batch.put(_COUNT, b"%d" % (self.users + added), self._offsets_handle)
        if forgotten:
            batch.put(_ERASING, b"", self._offsets_handle)
        with self._written():
            self._db.write(batch)
        self._has_texts = self._has_texts or texts
        self.users += added
        self.latest_event_time_ms = latest
        for tell in self.forgot:
            for user_id in forgotten:
                tell(user_id)
        for listener in self.listeners:
            listener(taken)
        if forgotten:
            with self._written():
                self._erase(forgotten)
        return len(taken)

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Whatever RocksDB says of a write is a `HistoryStoreError`."""
        try:
            yield
        except Exception as error:
            self.writable = False
            why = full_disk.sentence(self._directory) if full_disk.is_full(error) else error
            raise HistoryStoreError(
                f"{self._directory}: user histories cannot be written ({why})"
            ) from error

    def _erase(self, users: Iterable[int] | None = None) -> None:
        """Write anew what files hold of these keys: what was deleted is then in none of them.

        None: of all keys, where nobody knows which were deleted.
        """
        assert self._db is not None  # noqa: S101 - see store
        options = CompactOptions()
        options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
        for family in (self._users, self._texts, self._offsets, self._forgotten):
            family.flush()  # so that the log of writes goes, too
        for key in [None] if users is None else map(_key, users):
            for family in (self._users, self._forgotten):
                family.compact_range(key, key, options)
        # a key may be the first or the last of a file, and the list of files says so until the next
        self._offsets.put(_LATEST, self._offsets.get(_LATEST) or b"0")
        self._offsets.delete(_ERASING)
        self._offsets.flush()

    def _put_texts(self, batch: WriteBatch, taken: Iterable[tuple[int, int, UserSequence]]) -> bool:
        """Keep what the items are called whose clicks say so; the first text of a number stays."""
        said: dict[int, str] = {}
        others: dict[int, str] = {}
        for _, _, sequence in taken:
            item, text = sequence.target, sequence.external_target_id
            if not text:
                continue
            if item not in said:
                stored = self._texts.get(_key(item))
                said[item] = stored.decode() if stored is not None else text
                if stored is None:
                    batch.put(_key(item), text.encode(), self._texts_handle)
            if said[item] != text:
                self.collisions += 1
                others[item] = text
        for item, text in others.items():
            log.error("two items have one number", item_id=item, known=said[item], other=text)
        return bool(said)

    def forgotten_users(self) -> list[int]:
        """Those who were forgotten, as long as there is a note of them."""
        stored: Iterator[Any] = self._forgotten.keys() if self._db is not None else iter(())
        return [_user_of(key) for key in stored]

    def drop_requests(self) -> None:
        """Let go of notes that are of no use any more, and of what is known of those requests.

        Raises:
            HistoryStoreError: if the store cannot be written.
        """
        if self._db is None or self._requests is None or not self.writable:
            return
        self._requests.drop_old()
        noted = set(self._requests.users())
        gone = [user for user in self.forgotten_users() if user not in noted]
        if not gone:
            return
        with self._written():
            self._offsets.put(_ERASING, b"")
            for user_id in gone:
                self._forgotten.delete(_key(user_id))
            self._erase(gone)


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_write_buffer_size(8 * 2**20)
    options.set_max_log_file_size(2**20)
    options.set_keep_log_file_num(2)
    options.set_max_manifest_file_size(1)  # the list of files is written anew, see `_erase`
    return options


def _key(number: int) -> bytes:
    return np.array(number, _KEY).tobytes()


def _user_of(key: bytes) -> int:
    return int(np.frombuffer(key, _KEY, 1)[0])


def _lines(value: bytes | None) -> list[str]:
    return value.decode().split("\n") if value else []
