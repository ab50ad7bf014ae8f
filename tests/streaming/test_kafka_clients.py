from __future__ import annotations

import gc
import logging
import pickle
import socket
import threading
import time
from collections.abc import Callable

import psutil
import pytest
from kafka.errors import KafkaError

from streaming import kafka_clients
from streaming.errors import KafkaUnavailable
from streaming.kafka_clients import KafkaConnection


@pytest.fixture
def away() -> KafkaConnection:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return KafkaConnection(f"127.0.0.1:{port}", {"bootstrap_timeout_ms": 100})


def test_it_travels_to_another_process_and_shows_no_secret() -> None:
    kafka = KafkaConnection("one:9092,two:9092", {"sasl_plain_password": "hunter2"})
    assert pickle.loads(pickle.dumps(kafka)) == kafka  # noqa: S301
    assert "hunter2" not in repr(kafka)


@pytest.mark.parametrize("kind", ["admin", "consumer", "producer"])
def test_no_client_waits_longer_than_is_configured(away: KafkaConnection, kind: str) -> None:
    with pytest.raises(KafkaError):
        getattr(away, kind)(bootstrap_timeout_ms=60_000)


def test_a_name_that_does_not_resolve_is_an_error_of_kafka() -> None:
    nowhere = KafkaConnection("no-such-host.invalid:9092", {"bootstrap_timeout_ms": 100})
    with pytest.raises(KafkaError):
        nowhere.admin()


def test_what_is_set_wins_over_what_a_reader_asks_and_that_over_the_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kafka_clients, "KafkaConsumer", dict)
    kafka = KafkaConnection("a:1", {"request_timeout_ms": 3, "client_id": "shop"})
    made = kafka.consumer(request_timeout_ms=2, isolation_level="read_uncommitted")
    assert made["request_timeout_ms"] == 3 and made["client_id"] == "shop"
    assert made["isolation_level"] == "read_uncommitted"
    assert made["group_id"] is None and made["bootstrap_servers"] == "a:1"


def test_who_waits_learns_the_address(away: KafkaConnection) -> None:
    said = f"Kafka at {away.bootstrap} does not answer"
    with pytest.raises(KafkaUnavailable, match=said), away.answering():
        away.consumer()


@pytest.mark.parametrize("kind", ["admin", "consumer", "producer"])
def test_a_client_that_cannot_connect_leaves_neither_thread_nor_descriptor(
    kind: str, free_ports: Callable[[int], list[int]]
) -> None:
    logging.disable(logging.CRITICAL)  # what is logged holds the sockets of its traceback
    away = KafkaConnection(f"127.0.0.1:{free_ports(1)[0]}")
    process = psutil.Process()

    def tries(count: int) -> tuple[int, int]:
        for _ in range(count):
            with pytest.raises(KafkaError):
                getattr(away, kind)(bootstrap_timeout_ms=200)
        deadline = time.monotonic() + 5
        while threading.active_count() > began and time.monotonic() < deadline:
            time.sleep(0.05)
        gc.collect()
        return process.num_fds(), threading.active_count()

    began = threading.active_count()
    try:
        first = tries(1)
        assert tries(4) <= first
    finally:
        logging.disable(logging.NOTSET)
