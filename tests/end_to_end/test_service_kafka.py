"""The service's user histories against a real broker, through crashes and transactions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from deploy.service.sequence_follower import SequenceFollower
from deploy.service.user_histories import UserHistories
from streaming.events import UserSequence
from streaming.kafka_clients import KafkaConnection
from streaming.topics import Topics, create_topics
from tests.deploy.snapshot_maker import clicks

pytestmark = pytest.mark.end_to_end


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come about in time"
        time.sleep(0.05)


class Following:
    """A follower in a thread."""

    def __init__(self, directory: Path, bootstrap: str, topic: str) -> None:
        self.histories = UserHistories(directory)
        self.follower = SequenceFollower(
            self.histories, KafkaConnection(bootstrap), topic, retry_seconds=0.3
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.follower.run, args=(self._stop,))
        self._thread.start()

    def wait_until_caught_up(self) -> None:
        wait_until(lambda: self.follower.lag_records == 0)

    def end(self) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        self.histories.close()


@pytest.fixture
def topics(kafka_broker, tmp_path: Path) -> Iterator[Topics]:
    own = Topics().prefixed(f"service-{tmp_path.name}-")
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap)
    create_topics(admin, own, partitions=2)
    yield own
    admin.close()


def produce(producer: KafkaProducer, topic: str, sequences: list[UserSequence]) -> None:
    for sequence in sequences:
        producer.send(topic, key=sequence.key(), value=sequence.to_bytes())


def test_histories_hold_what_is_committed_and_resume_after_a_restart(
    kafka_broker, topics: Topics, tmp_path: Path
) -> None:
    log = clicks()
    producer = KafkaProducer(
        bootstrap_servers=kafka_broker.bootstrap, transactional_id=topics.sequences
    )
    producer.init_transactions()
    following = Following(tmp_path / "histories", kafka_broker.bootstrap, topics.sequences)
    producer.begin_transaction()
    produce(producer, topics.sequences, log[:50])
    producer.commit_transaction()
    wait_until(lambda: following.follower.stored_records == 50)
    following.wait_until_caught_up()  # also behind the marker that ends the transaction
    producer.begin_transaction()
    produce(producer, topics.sequences, log[50:70])
    producer.flush()
    producer.abort_transaction()
    following.end()

    producer.begin_transaction()
    produce(producer, topics.sequences, log[50:])
    producer.commit_transaction()
    producer.close()
    again = Following(tmp_path / "histories", kafka_broker.bootstrap, topics.sequences)
    wait_until(lambda: again.follower.stored_records == len(log) - 50)
    again.wait_until_caught_up()
    for user in {s.user_id for s in log}:
        history = again.histories.get(user)
        assert history is not None
        mine = [s for s in log if s.user_id == user]
        assert history.items == [s.target for s in mine]
        assert history.times == [s.event_time for s in mine]
    assert again.histories.latest_event_time_ms == max(s.event_time for s in log)
    again.end()


def test_a_broker_that_dies_and_returns_is_followed_again(
    kafka_broker, topics: Topics, tmp_path: Path
) -> None:
    log = clicks()
    following = Following(tmp_path / "histories", kafka_broker.bootstrap, topics.sequences)
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap)
    produce(producer, topics.sequences, log[:60])
    producer.flush()
    producer.close()
    wait_until(lambda: following.follower.stored_records == 60)
    kafka_broker.kill()
    assert following.histories.get(log[0].user_id) is not None  # goes on answering
    kafka_broker.start()
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap)
    produce(producer, topics.sequences, log[60:])
    producer.flush()
    producer.close()
    wait_until(lambda: following.follower.stored_records == len(log), 60)
    following.wait_until_caught_up()
    following.end()
