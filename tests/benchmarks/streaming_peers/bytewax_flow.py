"""Bytewax: stateful map with snapshots in SQLite, at least once."""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

from bytewax import operators as op
from bytewax.connectors.kafka import KafkaSinkMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import cluster_main

from tests.benchmarks.streaming_peers.state import fresh, parse, step


def flow(a: dict) -> Dataflow:
    flow = Dataflow("sequences")
    source = kop.input(
        "clicks", flow, brokers=[a["bootstrap"]], topics=[a["input"]], batch_size=5000
    )
    clicks = op.filter_map("parse", source.oks, lambda message: parse(message.value))
    keyed = op.key_on("user", clicks, lambda click: str(click["user_id"]))

    def take(state: dict | None, click: dict) -> tuple[dict, bytes | None]:
        state = state or fresh()
        return state, step(state, click, a["remembered"])

    made = op.stateful_map("sequence", keyed, take)
    kept = op.filter("duplicates", made, lambda pair: pair[1] is not None)
    out = op.map("message", kept, lambda pair: KafkaSinkMessage(pair[0].encode(), pair[1]))
    kop.output("sequences", out, brokers=[a["bootstrap"]], topic=a["output"])
    return flow


def main() -> None:
    a = json.loads(sys.argv[1])
    state = Path(a["state"])
    if a["number"] == 0:
        made = state.with_suffix(".made")
        made.mkdir()
        init_db_dir(made, len(a["addresses"]))
        made.rename(state)
    while not state.is_dir():
        time.sleep(0.05)
    addresses = a["addresses"] if len(a["addresses"]) > 1 else []
    cluster_main(
        flow(a),
        addresses,
        a["number"],
        epoch_interval=timedelta(milliseconds=a["commit_ms"]),
        recovery_config=RecoveryConfig(str(state)),
    )


if __name__ == "__main__":
    main()
