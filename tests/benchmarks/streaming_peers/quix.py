"""Quix Streams: state in RocksDB with a changelog topic, exactly once by transactions."""

from __future__ import annotations

import json
import sys

from quixstreams import Application, State
from quixstreams.models import BytesDeserializer, BytesSerializer

from tests.benchmarks.streaming_peers.state import fresh, parse, step


def main() -> None:
    a = json.loads(sys.argv[1])
    app = Application(
        broker_address=a["bootstrap"],
        consumer_group=a["output"],
        auto_offset_reset="earliest",
        state_dir=f"{a['state']}-{a['number']}",
        processing_guarantee=a["delivery"],
        commit_interval=a["commit_ms"] / 1000,
        loglevel="WARNING",
    )
    source = app.topic(a["input"], value_deserializer=BytesDeserializer(), key_deserializer="bytes")
    sink = app.topic(a["output"], value_serializer=BytesSerializer(), key_serializer="bytes")

    def sequence(value: bytes, state: State) -> bytes | None:
        click = parse(value)
        if click is None:
            return None
        user = state.get("user") or fresh()
        result = step(user, click, a["remembered"])
        if result is not None:
            state.set("user", user)
        return result

    frame = app.dataframe(source).apply(sequence, stateful=True)
    frame = frame.filter(lambda value: value is not None)
    frame.to_topic(sink)
    app.run()


if __name__ == "__main__":
    main()
