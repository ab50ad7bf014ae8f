"""What a job has committed to Kafka: the reason why another must not begin anew beside it."""

from __future__ import annotations

from kafka import TopicPartition

from streaming.committed_topic import read_all
from streaming.job.settings import JobConfig
from streaming.kafka_clients import KafkaConnection
from streaming.topics import Topics


def committed_work(config: JobConfig, kafka: KafkaConnection, topics: Topics) -> list[str]:
    """What can be seen in Kafka of an earlier run of this job, in words; empty for none.

    That is the offsets that its consumer group has committed, and with exactly-once delivery any
    committed record of its topics. Without transactions records may be there before the first
    checkpoint; those come again, and readers drop them.

    Args:
        config: of the job; its name is that of the group.
        kafka: where the topics are.
        topics: of the job.

    Raises:
        KafkaUnavailable: if Kafka does not answer.
    """
    found = []
    with kafka.answering():
        reader = kafka.consumer(group_id=config.name)
        try:
            numbers = reader.partitions_for_topic(topics.clicks) or ()
            partitions = [TopicPartition(topics.clicks, p) for p in numbers]
            offset = sum(reader.committed(p) or 0 for p in partitions)
        finally:
            reader.close(autocommit=False)
    if offset:
        found.append(
            f"its group {config.name!r} has read {offset:,} records of the topic {topics.clicks!r}"
        )
    if config.delivery == "exactly-once":
        for topic in (topics.sequences, topics.clicks_late, topics.clicks_dlq):
            if any(True for _ in read_all(kafka, topic)):
                found.append(f"the topic {topic!r} is not empty")
    return found
