"""The log's time, told to every partition of `clicks`.

Without it a partition without events (few users, or the end of the log) would hold the job's
watermark back.
"""

from __future__ import annotations

from collections.abc import Mapping

from replay.producer import Producer
from streaming.events import HEARTBEAT, Click


class Pulse:
    """Sends heartbeats.

    Args:
        producer: also sends the clicks, so that a heartbeat stands behind those before it.
        topic: of the clicks.
    """

    def __init__(self, producer: Producer, topic: str) -> None:
        self._producer = producer
        self._topic = topic
        self.partitions = producer.partitions(topic)

    def beat(self, position: int, time_ms: int, told: Mapping[int, int] | None = None) -> None:
        """Store a heartbeat behind every click sent so far.

        Args:
            position: log position of the last click before it.
            time_ms: the log's time; no later click may be earlier.
            told: partition -> time that it has been told; those at `time_ms` are left out.
        """
        self._producer.flush()
        heartbeat = Click(f"heartbeat-{time_ms}", 0, 0, time_ms, HEARTBEAT)
        key, value = heartbeat.key(), heartbeat.to_bytes()
        for partition in range(self.partitions):
            if (told or {}).get(partition, -1) < time_ms:
                self._producer.send(self._topic, key, value, position, partition)
        self._producer.flush()
