"""An idempotent Kafka producer that says when Kafka is gone.

Every record carries its position in the log as a header. `flush` is the barrier: it returns when
everything sent so far is stored, and raises if a record was refused. Nothing expires on the way:
kafka-python retries with its sequence numbers, so a record is stored once, in order, also across a
restart of the broker.

Measured with kafka-python 3.0.12 (60,000 clicks, one partition): 23,000 records per CPU second with
its defaults. A third of that goes into CRC-32C in pure Python; with large batches it is 36,000 when
gzip leaves fewer bytes to check, 31,000 uncompressed, and 75,000 uncompressed when the C extension
`crc32c` is installed. (zstd would reach 50,000, but Flink's connector cannot read it.)

`Producer` is all that the replay asks of a client; librdkafka may stand behind it
(`replay/librdkafka_producer.py`).
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from kafka.errors import (
    AuthorizationError,
    KafkaConfigurationError,
    KafkaError,
    KafkaTimeoutError,
    SaslAuthenticationFailedError,
    UnsupportedVersionError,
)
from kafka.partitioner.default import murmur2

from replay.errors import ReplayError
from streaming.kafka_clients import KafkaConnection

POSITION = "log_position"
"""Header of every record: its 0-based position in the log, in decimal digits. A heartbeat carries
the position of the last click before it."""
BOOTSTRAP_MS = 3000
"""Of every client of the replay: whoever waits is told about every second."""
SETTINGS: dict[str, Any] = {
    "bootstrap_timeout_ms": BOOTSTRAP_MS,
    "batch_size": 256 * 1024,
    "linger_ms": 20,
    "compression_type": None if importlib.util.find_spec("crc32c") else "gzip",
    "delivery_timeout_ms": 2**31 - 1,
}
CLOSING_SECONDS = 5.0
HOPELESS = (
    AuthorizationError,
    KafkaConfigurationError,
    SaslAuthenticationFailedError,
    UnsupportedVersionError,
)
"""Errors that waiting does not mend."""
Result = TypeVar("Result")


class Producer(Protocol):
    """What the replay needs of a Kafka client."""

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has."""

    def send(self, topic: str, key: bytes, value: bytes, position: int, partition: int) -> None:
        """Queue a record."""

    def flush(self) -> None:
        """Return when everything queued is stored.

        Raises:
            ReplayError: if a record was refused, or Kafka stayed away for too long.
        """

    def close(self) -> None:
        """Let go of the connection; what was not flushed may be lost."""


class _Cause(logging.Handler):
    """Why no broker could be reached: kafka-python logs it, and raises a timeout only."""

    error: Exception | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the exception that a message is about; best one that waiting does not mend."""
        for argument in record.args or ():
            if isinstance(argument, HOPELESS) or (
                isinstance(argument, Exception)
                and not isinstance(argument, KafkaTimeoutError)
                and not isinstance(self.error, HOPELESS)
            ):
                self.error = argument


@lru_cache(maxsize=65_536)
def partition_of(key: bytes, partitions: int) -> int:
    """Kafka's own choice for a key (murmur2), the same in every client."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions if partitions > 1 else 0


class Patience:
    """How long Kafka may be away, and whom to tell.

    Args:
        kafka: that may be away.
        seconds: after this the replay gives up.
        waiting: called about every second with the seconds waited so far; may raise to stop.
        now: real time in seconds.
        sleep: called with seconds.
    """

    def __init__(
        self,
        kafka: KafkaConnection,
        seconds: float,
        waiting: Callable[[float], None],
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.kafka = kafka
        self.seconds = seconds
        self._waiting = waiting
        self._now = now
        self._sleep = sleep

    def until(self, attempt: Callable[[], Result]) -> Result:
        """The first result of `attempt` that is no Kafka error.

        Raises:
            ReplayError: if there is none in time.
        """
        began = self._now()
        cause = _Cause(logging.WARNING)
        bootstrap_log = logging.getLogger("kafka.net.manager")
        bootstrap_log.addHandler(cause)
        try:
            return self._until(attempt, began, cause)
        finally:
            bootstrap_log.removeHandler(cause)

    def _until(self, attempt: Callable[[], Result], began: float, cause: _Cause) -> Result:
        while True:
            started = self._now()
            try:
                return attempt()
            except (KafkaError, OSError) as raised:
                error = (cause.error or raised) if isinstance(raised, KafkaTimeoutError) else raised
                if isinstance(error, HOPELESS):
                    raise ReplayError(
                        f"Kafka at {self.kafka.bootstrap} lets nobody in ({_reason(error)}); "
                        "correct the [kafka] section of the configuration"
                    ) from error
                waited = self._now() - began
                if waited >= self.seconds:
                    raise ReplayError(
                        f"Kafka at {self.kafka.bootstrap} does not answer since {waited:.0f} s "
                        f"({_reason(error)}); start it or correct the address, then start the "
                        "replay again: it goes on where it was"
                    ) from error
                self._waiting(waited)
                self._sleep(max(0.0, min(1.0 - (self._now() - started), self.seconds - waited)))


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


class KafkaPythonProducer:
    """A `Producer` that is kafka-python's.

    Args:
        patience: how long to wait for Kafka.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._refused: list[BaseException] = []
        self._kafka: Any = patience.until(lambda: patience.kafka.producer(**SETTINGS))

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has."""
        return len(self._patience.until(lambda: self._kafka.partitions_for(topic)))

    def send(self, topic: str, key: bytes, value: bytes, position: int, partition: int) -> None:
        """Queue a record."""
        headers = [(POSITION, b"%d" % position)]
        sent = self._kafka.send(topic, value, key, headers=headers, partition=partition)
        sent.add_errback(self._refused.append)

    def flush(self) -> None:
        """Return when everything queued is stored.

        Raises:
            ReplayError: if a record was refused, or Kafka stayed away for too long.
        """
        self._patience.until(lambda: self._kafka.flush(timeout=1.0))
        if self._refused:
            error = self._refused[0]
            raise ReplayError(
                f"Kafka at {self._patience.kafka.bootstrap} refused {len(self._refused)} records "
                f"({type(error).__name__}: {error}); look into the broker's log, then start the "
                "replay again: it sends what is missing"
            )

    def close(self) -> None:
        """Let go of the connection; what was not flushed may be lost."""
        try:
            self._kafka.close(timeout=CLOSING_SECONDS)
        except KafkaError:  # its last flush; without this it tries again, loudly, at exit
            self._kafka._sender.force_close()
            self._kafka._sender.join(CLOSING_SECONDS)
            with suppress(KafkaError):
                self._kafka.close(timeout=0)
