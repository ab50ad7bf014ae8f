"""Withdraws items by records of `items` without a value."""

from __future__ import annotations

import numpy as np
import structlog
from kafka.errors import KafkaError
from numpy.typing import NDArray

from streaming.kafka_clients import KafkaConnection

log = structlog.get_logger(__name__)

PATIENCE_MS = 10_000


class Tombstones:
    """Writes tombstones to a topic."""

    def __init__(self, kafka: KafkaConnection, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic

    def put(self, item_ids: NDArray[np.int64], time_ms: int) -> bool:
        """Write one for each item, with this time; whether all are stored.

        Where Kafka is away that is logged: what is due is due again later.
        """
        producer = None
        try:
            # once for a version at most: a connection for each time is no cost
            producer = self._kafka.producer(max_block_ms=PATIENCE_MS)
            sent = [
                producer.send(self._topic, None, b"%d" % item_id, timestamp_ms=time_ms)
                for item_id in item_ids.tolist()
            ]
            producer.flush(timeout=PATIENCE_MS / 1000)
            for future in sent:
                future.get(timeout=0)
            return True
        except (KafkaError, AssertionError) as error:
            log.error("items whose time is over are not withdrawn yet", reason=repr(error))
            return False
        finally:
            if producer is not None:
                producer.close(timeout=1)
