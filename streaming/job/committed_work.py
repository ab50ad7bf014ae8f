"""What a job has committed to Kafka: the reason why another must not begin anew beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError

from streaming.errors import KafkaUnavailable
from streaming.job.accounting import consumer, read_all
from streaming.job.settings import JobConfig
from streaming.topics import Topics


def committed_work(
    config: JobConfig, bootstrap: str, topics: Topics, settings: Mapping[str, Any] | None = None
) -> list[str]:
    """What can be seen in Kafka of an earlier run of this job, in words; empty for none.

    That is the offsets that its consumer group has committed, and with exactly-once delivery any
    committed record of its topics. Without transactions records may be there before the first
    checkpoint; those come again, and readers drop them.

    Args:
        config: of the job; its name is that of the group.
        bootstrap: of Kafka.
        topics: of the job.
        settings: of kafka-python.

    Raises:
        KafkaUnavailable: if Kafka does not answer.
    """
    found = []
    reader = consumer(bootstrap, {**(settings or {}), "group_id": config.name})
    try:
        partitions = [
            TopicPartition(topics.clicks, p)
            for p in reader.partitions_for_topic(topics.clicks) or ()
        ]
        if offset := sum(reader.committed(p) or 0 for p in partitions):
            found.append(
                f"its group {config.name!r} has read {offset:,} records of the topic "
                f"{topics.clicks!r}"
            )
        if config.delivery == "exactly-once":
            for topic in (topics.sequences, topics.clicks_late, topics.clicks_dlq):
                if any(True for _ in read_all(reader, topic)):
                    found.append(f"the topic {topic!r} is not empty")
        return found
    except KafkaError as error:
        raise KafkaUnavailable(f"Kafka at {bootstrap} does not answer ({error})") from error
    finally:
        reader.close(autocommit=False)
