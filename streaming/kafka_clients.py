"""How the pipeline reaches Kafka: one address, and what its kafka-python clients have in common.

Whoever makes a client says only what is particular to it; what the configuration sets wins over
that, and over the defaults here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaConnectionError, KafkaError

from streaming.errors import KafkaUnavailable

CLIENT_SETTINGS = frozenset(KafkaConsumer.DEFAULT_CONFIG) & frozenset(
    KafkaProducer.DEFAULT_CONFIG.keys() & KafkaAdminClient.DEFAULT_CONFIG.keys()
)
"""What every client of kafka-python understands."""

ADMIN: dict[str, Any] = {
    "bootstrap_timeout_ms": 2_000,
    "request_timeout_ms": 5_000,
    # The default grows to 30 s: a broker that is back would be noticed half a minute later.
    "reconnect_backoff_max_ms": 1_000,
}
CONSUMER: dict[str, Any] = {
    "reconnect_backoff_max_ms": 1_000,
    # Offsets are kept with what was made of the records, so there is no group.
    "group_id": None,
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
    "metrics_enabled": False,
}
PRODUCER: dict[str, Any] = {
    "reconnect_backoff_max_ms": 1_000,
    "acks": "all",
    "enable_idempotence": True,
    "metrics_enabled": False,
}

SHORT: dict[str, Any] = {"bootstrap_timeout_ms": 5_000, "request_timeout_ms": 10_000}
"""For a consumer that is made anew as long as Kafka is away: a stop waits for no lost broker. Who
asks once has kafka-python's half a minute."""


@dataclass(frozen=True)
class KafkaConnection:
    """Where Kafka is, and how its clients get in.

    Attributes:
        bootstrap: `host:port,...`.
        settings: of kafka-python's clients, as the configuration has them.
    """

    bootstrap: str
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def admin(self, **particular: Any) -> KafkaAdminClient:
        """A client that asks for topics and makes them; raises KafkaError."""
        return self._made(KafkaAdminClient, ADMIN | particular)

    def consumer(self, **particular: Any) -> KafkaConsumer:
        """A consumer of no group that sees committed records only; raises KafkaError."""
        return self._made(KafkaConsumer, CONSUMER | particular)

    def producer(self, **particular: Any) -> KafkaProducer:
        """An idempotent producer; raises KafkaError."""
        return self._made(KafkaProducer, PRODUCER | particular)

    def _made(self, kind: Any, ours: Mapping[str, Any]) -> Any:
        sockets: list[Any] = []

        def connected(**config: Any) -> Any:
            sockets.append(kind.DEFAULT_CONFIG["kafka_client"](**config))
            return sockets[-1]

        given = {**ours, "bootstrap_servers": self.bootstrap, **self.settings}
        try:
            return kind(**given, kafka_client=connected)
        except (KafkaError, OSError) as error:
            for one in sockets:  # kafka-python leaves its thread and descriptors behind
                one.close()
            if isinstance(error, OSError):  # a name that does not resolve, for one
                raise KafkaConnectionError(str(error)) from error
            raise

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Within it an error of Kafka's is a `KafkaUnavailable`, which names the address."""
        try:
            yield
        except KafkaError as error:
            raise KafkaUnavailable(
                f"Kafka at {self.bootstrap} does not answer ({error})"
            ) from error
