"""Writes requests into Kafka, each whole or not at all, and says so when Kafka has them.

Requests that come while one transaction is committed make up the next one. A transaction that fails
leaves nothing: the next producer, of the same name, ends it. Who is told that Kafka is away may say
the same again; if the request was taken after all, as its acknowledgement came too late, the clicks
have the ids that they had, and the job drops them.

Clicks wait in the job until the clock of every partition has passed them, and only clicks move it.
So all partitions are told the time of the newest click, once a second while there are new ones; and
when none has come for as long as the job waits, that the newest has passed, too.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog
from kafka.errors import KafkaError, KafkaTimeoutError

from deploy.ingest.records import Record
from streaming.durable_files import write_atomically
from streaming.events import FORGET, HEARTBEAT, Click
from streaming.kafka_clients import KafkaConnection

log = structlog.get_logger(__name__)

ROOM = 20_000
"""Records that may wait; who comes with more is told to come again."""
TOGETHER = 5_000
"""Records of a transaction, and those of its last request."""
PATIENCE_S = 10.0
"""A request waits so long for Kafka."""
STANDS_STILL_S = 3.0
"""After so long without an end of a transaction nobody is made to wait any more."""
TRANSACTION_MS = 15_000
"""Kafka ends a transaction after so long whose producer is gone: until then readers wait."""
LIVE_MS = 60_000
"""Clicks that are older are a log's: that none has come for seconds says nothing of its clock."""
BEAT_S = 1.0
GIVE_UP_S = 8.0
"""A transaction whose records Kafka has not got after so long is given up."""
SETTINGS: dict[str, Any] = {
    "bootstrap_timeout_ms": 3_000,
    "request_timeout_ms": 5_000,
    "max_block_ms": 8_000,
    "transaction_timeout_ms": TRANSACTION_MS,
    "linger_ms": 0,
    "allow_auto_create_topics": False,  # made by a click, they would have a broker's settings
}


class RoomTaken(Exception):
    """As many records wait as may."""


class KafkaAway(Exception):
    """Kafka does not answer; nothing was taken, or it is not known."""


class _Request:
    __slots__ = ("done", "records")

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.done: Future[None] = Future()


class KafkaWriter:
    """One producer in a thread of its own; `write` is called from an event loop.

    Args:
        kafka: where to write.
        identity: file with the producer's name in Kafka, made where it is missing. A second
            process with the same name ends the first one's transactions.
        clicks: topic of the clicks, which gets the heartbeats.
        delay_ms: how far behind the clock the job lets clicks be.
    """

    def __init__(self, kafka: KafkaConnection, identity: Path, clicks: str, delay_ms: int) -> None:
        self._kafka = kafka
        self._identity = identity
        self._pulse = Pulse(clicks, delay_ms)
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._began: float | None = None
        self._producer: Any = None

    async def write(self, records: Sequence[Record]) -> None:
        """Return when Kafka has all of them.

        Raises:
            RoomTaken: at once.
            KafkaAway: at once where Kafka has stood still for seconds, else after a while.
        """
        began = self._began
        if began is not None and time.monotonic() - began > STANDS_STILL_S:
            raise KafkaAway
        request = _Request(records)
        with self._lock:
            if self._waiting + len(records) > ROOM and self._waiting:
                raise RoomTaken
            self._waiting += len(records)
        self._requests.put(request)
        try:
            await asyncio.wait_for(asyncio.wrap_future(request.done), PATIENCE_S)
        except TimeoutError:
            raise KafkaAway from None

    def run(self, stop: threading.Event) -> None:
        """Write what comes until `stop` is set."""
        while not stop.is_set():
            group = self._next()
            now_ms = time.time_ns() // 1_000_000
            for request in group:
                self._pulse.see(request.records, now_ms)
            beat_ms = self._pulse.due(now_ms)
            if group or beat_ms is not None:
                self._write(group, beat_ms)
        if (last_ms := self._pulse.last()) is not None:
            self._write([], last_ms)  # who comes after us knows nothing of the last click
        self._refuse_who_waits()
        if self._producer is not None:
            with suppress(KafkaError):
                self._producer.close(timeout=2)

    def _next(self) -> list[_Request]:
        """What waits, up to `TOGETHER` records; nothing after a while in which nothing came."""
        group: list[_Request] = []
        size = 0
        with suppress(queue.Empty):
            while size < TOGETHER:
                request = self._requests.get(timeout=0 if group else 0.2)
                if request.done.set_running_or_notify_cancel():
                    group.append(request)
                    size += len(request.records)
                else:  # it was given up
                    self._leave(request)
        return group

    def _write(self, group: list[_Request], beat_ms: int | None) -> None:
        records = [one for request in group for one in request.records]
        size = len(records)
        self._began = time.monotonic()
        try:
            producer = self._ready()
            producer.begin_transaction()
            if beat_ms is not None:
                partitions = producer.partitions_for(self._pulse.topic) or ()
                records += self._pulse.records(beat_ms, partitions)
            sent = [
                producer.send(one.topic, one.value, one.key, partition=one.partition)
                for one in records
            ]
            producer.flush(timeout=GIVE_UP_S)
            for one in sent:  # kafka-python commits also where a batch of it has expired
                if not one.succeeded():
                    raise one.exception or KafkaTimeoutError("not stored in time")
            producer.commit_transaction()
        except Exception as error:  # kafka-python raises others than its own, too
            log.error("Kafka did not take what came over HTTP", records=size, reason=repr(error))
            self._drop()
            for request in group:
                self._leave(request)
                request.done.set_exception(KafkaAway())
            return
        finally:
            self._began = None
        if beat_ms is not None:
            self._pulse.told(beat_ms)
        for request in group:
            self._leave(request)
            request.done.set_result(None)

    def _leave(self, request: _Request) -> None:
        with self._lock:
            self._waiting -= len(request.records)

    def _ready(self) -> Any:
        """A producer that may begin a transaction; the last one of its name has ended."""
        if self._producer is None:
            # a longer one that is configured for all clients is to fit into the delivery's
            request_ms = int(self._kafka.settings.get("request_timeout_ms") or 0)
            producer = self._kafka.producer(
                transactional_id=self._name(),
                delivery_timeout_ms=max(request_ms + 1000, int(1000 * GIVE_UP_S)),
                **SETTINGS,
            )
            try:
                producer.init_transactions()
            except BaseException:
                producer.close(timeout=0)
                raise
            self._producer = producer
        return self._producer

    def _name(self) -> str:
        try:
            return self._identity.read_text(encoding="ascii")
        except FileNotFoundError:
            name = f"sparc-ingest-{uuid4()}"
            self._identity.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._identity, name.encode())
            return name

    def _drop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.close(timeout=0)
            except Exception:  # it waits for its records before it lets go, and gives up
                producer._sender.force_close()

    def _refuse_who_waits(self) -> None:
        with suppress(queue.Empty):
            while True:
                request = self._requests.get_nowait()
                if request.done.set_running_or_notify_cancel():
                    request.done.set_exception(KafkaAway())


class Pulse:
    """What time to tell the partitions of the clicks, and when.

    It is the time of the newest click, but never one ahead of this machine's clock: what the job
    is told by a heartbeat makes all that is older late.

    Args:
        topic: of the clicks.
        delay_ms: a click has passed when the clock is so far behind it.
        monotonic: seconds.
    """

    def __init__(
        self, topic: str, delay_ms: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.topic = topic
        self._delay_ms = delay_ms
        self._monotonic = monotonic
        self._newest_ms = -1
        self._live = False
        self._told_ms = -1
        self._next = 0.0

    def see(self, records: Sequence[Record], now_ms: int) -> None:
        """Take note of clicks that came at `now_ms`."""
        if self._newest_ms > now_ms:  # the clock was put back
            self._newest_ms = self._told_ms = -1
        for record in records:
            if record.topic == self.topic and record.value is not None:
                click = Click.from_bytes(record.value)
                if click.event_type == FORGET:  # it waits for no time
                    continue
                time_ms = min(click.event_time, now_ms)
                if time_ms > self._newest_ms:
                    self._newest_ms, self._live = time_ms, time_ms >= now_ms - LIVE_MS

    def due(self, now_ms: int) -> int | None:
        """The time to tell now; None where nothing is to be told."""
        time_ms = self._newest_ms
        if self._live and now_ms > self._newest_ms + self._delay_ms:
            time_ms = self._newest_ms + self._delay_ms + 1
        if time_ms <= self._told_ms or self._monotonic() < self._next:
            return None
        self._next = self._monotonic() + BEAT_S
        return time_ms

    def last(self) -> int | None:
        """The time at which the newest click has passed, where it has not been told."""
        time_ms = self._newest_ms + self._delay_ms + 1
        return time_ms if self._live and time_ms > self._told_ms else None

    def records(self, time_ms: int, partitions: Iterable[int]) -> list[Record]:
        """A heartbeat for every partition."""
        beat = Click(f"heartbeat-{time_ms}", 0, 0, time_ms, HEARTBEAT)
        return [
            Record(self.topic, beat.key(), beat.to_bytes(), number) for number in sorted(partitions)
        ]

    def told(self, time_ms: int) -> None:
        """Kafka has it."""
        self._told_ms = max(self._told_ms, time_ms)
