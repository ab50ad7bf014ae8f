"""Stands where records are written into Kafka: keeps them."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.ingest.records import Record


class KeptRecords:
    """Takes records as a `KafkaWriter` does; `error` is what it says instead.

    `ends` is where the topic of the items ends, for who asks.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.error: Exception | None = None
        self.log_time_ms: int | None = None
        self.ends: dict[int, int] = {}

    async def write(self, records: Sequence[Record]) -> None:
        if self.error is not None:
            raise self.error
        self.records += records
