"""Waiting for a broker and for a Flink cluster that a test has started."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from streaming.job.flink_rest import FlinkRest, FlinkUnavailable
from streaming.job.flink_tls import FlinkTls

PATIENCE_SECONDS = 180.0


def broker_answers(bootstrap: str, client: Mapping[str, Any] | None = None) -> bool:
    """Whether a broker knows its cluster and lets us in with these settings of kafka-python."""
    settings: dict[str, Any] = {
        "bootstrap_servers": bootstrap,
        "request_timeout_ms": 3000,
        "bootstrap_timeout_ms": 1000,
        **(client or {}),
    }
    try:
        admin = KafkaAdminClient(**settings)
    except (KafkaError, OSError, ValueError):
        return False
    try:
        return bool(admin.describe_cluster().get("brokers"))
    except KafkaError:
        return False
    finally:
        admin.close()


def await_broker(
    bootstrap: str,
    client: Mapping[str, Any] | None = None,
    still_running: Callable[[], bool] = lambda: True,
) -> None:
    _await(lambda: broker_answers(bootstrap, client), f"broker at {bootstrap}", still_running)


def await_cluster(
    address: str, tls: FlinkTls, still_running: Callable[[], bool] = lambda: True
) -> None:
    """Until the JobManager answers and has a TaskManager."""
    flink = FlinkRest(address, tls, timeout=3.0)

    def ready() -> bool:
        try:
            return bool(flink.task_managers())
        except FlinkUnavailable:
            return False

    try:
        _await(ready, f"Flink cluster at {address}", still_running)
    finally:
        flink.close()


def _await(ready: Callable[[], bool], what: str, still_running: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ready():
        assert still_running(), f"the {what} ended; see its log"
        assert time.monotonic() < deadline, f"no {what} after {PATIENCE_SECONDS:.0f} s; see its log"
        time.sleep(0.2)
