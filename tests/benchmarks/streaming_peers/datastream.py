"""PyFlink's DataStream API with keyed state in Python, exactly once."""

from __future__ import annotations

import json
import sys
from typing import Any

from pyflink.common import Configuration, Types, WatermarkStrategy
from pyflink.common.serialization import SimpleStringSchema
from pyflink.datastream import KeyedProcessFunction, RuntimeContext, StreamExecutionEnvironment
from pyflink.datastream.connectors.base import DeliveryGuarantee
from pyflink.datastream.connectors.kafka import (
    KafkaOffsetsInitializer,
    KafkaRecordSerializationSchema,
    KafkaSink,
    KafkaSource,
)
from pyflink.datastream.state import ValueStateDescriptor

from tests.benchmarks.streaming_peers.state import fresh, parse, step


class Sequences(KeyedProcessFunction):
    """Keeps the state of a user in one value."""

    def __init__(self, remembered: int) -> None:
        self.remembered = remembered

    def open(self, context: RuntimeContext) -> None:
        self.user = context.get_state(ValueStateDescriptor("user", Types.PICKLED_BYTE_ARRAY()))

    def process_element(self, value: tuple[int, dict], context: Any) -> Any:
        state = self.user.value() or fresh()
        sequence = step(state, value[1], self.remembered)
        if sequence is not None:
            self.user.update(state)
            yield sequence.decode()


def main() -> None:
    a = json.loads(sys.argv[1])
    configuration = Configuration()
    for name, value in a["flink"].items():
        configuration.set_string(name, value)
    environment = StreamExecutionEnvironment.get_execution_environment(configuration)
    source = (
        KafkaSource.builder()
        .set_bootstrap_servers(a["bootstrap"])
        .set_topics(a["input"])
        .set_group_id(a["output"])
        .set_starting_offsets(KafkaOffsetsInitializer.earliest())
        .set_value_only_deserializer(SimpleStringSchema())
        .build()
    )
    sink = (
        KafkaSink.builder()
        .set_bootstrap_servers(a["bootstrap"])
        .set_record_serializer(
            KafkaRecordSerializationSchema.builder()
            .set_topic(a["output"])
            .set_value_serialization_schema(SimpleStringSchema())
            .build()
        )
        .set_delivery_guarantee(DeliveryGuarantee.EXACTLY_ONCE)
        .set_transactional_id_prefix(a["output"])
        .set_property("transaction.timeout.ms", "900000")
        .build()
    )
    clicks = environment.from_source(source, WatermarkStrategy.no_watermarks(), "clicks")
    parsed = clicks.map(lambda text: parse(text.encode())).filter(lambda click: click is not None)
    sequences = (
        parsed.map(lambda click: (click["user_id"], click))
        .key_by(lambda pair: pair[0], key_type=Types.LONG())
        .process(Sequences(a["remembered"]), output_type=Types.STRING())
    )
    sequences.sink_to(sink)
    environment.execute(a["output"])


if __name__ == "__main__":
    main()
