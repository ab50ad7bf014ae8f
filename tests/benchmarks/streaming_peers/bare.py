"""A loop over kafka-python with a dict: no durable state, at most one core."""

from __future__ import annotations

import json
import sys

from kafka import KafkaConsumer, KafkaProducer

from tests.benchmarks.streaming_peers.state import fresh, parse, step


def main() -> None:
    a = json.loads(sys.argv[1])
    consumer = KafkaConsumer(
        a["input"],
        bootstrap_servers=a["bootstrap"],
        group_id=None,
        auto_offset_reset="earliest",
        max_poll_records=5000,
    )
    producer = KafkaProducer(
        bootstrap_servers=a["bootstrap"], linger_ms=20, batch_size=256 * 1024, acks="all"
    )
    users: dict[int, dict] = {}
    while True:
        for records in consumer.poll(timeout_ms=200).values():
            for record in records:
                click = parse(record.value)
                if click is None:
                    continue
                state = users.setdefault(click["user_id"], fresh())
                sequence = step(state, click, a["remembered"])
                if sequence is not None:
                    producer.send(a["output"], sequence, record.key)


if __name__ == "__main__":
    main()
