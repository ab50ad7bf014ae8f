from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from streaming import topics
from streaming.errors import KafkaUnavailable
from streaming.kafka_clients import KafkaConnection
from streaming.topics import Topics, await_topics


@pytest.fixture
def away() -> KafkaConnection:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return KafkaConnection(f"127.0.0.1:{port}", {"bootstrap_timeout_ms": 100})


def test_kafka_is_waited_for_until_one_is_told_to_stop(
    away: KafkaConnection, tmp_path: Path
) -> None:
    stop = threading.Event()
    assert not await_topics(away, tmp_path, Topics(), stop, stop.set)


def test_a_kafka_that_stays_away_is_given_up_with_its_address(
    away: KafkaConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "KAFKA_PATIENCE_SECONDS", 0.2)
    said = rf"no Kafka at {away.bootstrap} for \d+ s .*\[kafka\] bootstrap"
    with pytest.raises(KafkaUnavailable, match=said):
        await_topics(away, tmp_path, Topics(), threading.Event(), lambda: None)
