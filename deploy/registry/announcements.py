"""What the topic `snapshots` tells of a registered version, and who sends it.

Key: the model's name. Value: version, mlflow_version, manifest_digest, offsets, event_time_range,
trained_events, metrics. The topic is compacted, so a new reader finds the newest version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from kafka import KafkaProducer

from deploy.release.ledger import RegisteredVersion
from indexer.comparison.version_metrics import metrics_of
from indexer.snapshots.snapshot_facts import SnapshotFacts
from streaming.kafka_clients import KafkaConnection
from streaming.topic_identity import TopicIdentity

Announce = Callable[[str, Mapping[str, Any]], None]
"""Sends one announcement (model name, facts) and returns once Kafka has it; raises otherwise."""


def announcement(version: RegisteredVersion, facts: SnapshotFacts) -> dict[str, Any]:
    """What the topic `snapshots` says of a version."""
    return {
        "version": version.snapshot_version,
        "mlflow_version": version.mlflow_version,
        "manifest_digest": version.digest,
        "offsets": facts.offsets,
        "event_time_range": facts.event_time_range,
        "trained_events": facts.trained_events,
        "metrics": metrics_of(facts),
    }


class KafkaAnnouncer:
    """Sends announcements with an idempotent producer, opened when first needed.

    `identity` knows the cluster: nothing is announced to another one.
    """

    def __init__(
        self,
        kafka: KafkaConnection,
        topic: str,
        identity: TopicIdentity,
    ) -> None:
        self._kafka = kafka
        self._topic = topic
        self._identity = identity
        self._producer: KafkaProducer | None = None

    def __call__(self, model_name: str, facts: Mapping[str, Any]) -> None:
        """Send, and wait until the broker has it.

        Raises:
            KafkaError, ForeignKafkaError: it is not sent, or may not be.
        """
        self._identity.check()
        if self._producer is None:
            self._producer = self._kafka.producer(max_block_ms=5_000)
        key, value = model_name.encode(), orjson.dumps(facts)
        self._producer.send(self._topic, key=key, value=value).get(timeout=10)

    def close(self) -> None:
        """Let go of the connection."""
        self._identity.close()
        if self._producer is not None:
            self._producer.close(timeout=5)
