"""How long Kafka keeps what users did, and who goes on although some of it was deleted."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.structs import OffsetAndMetadata
from typer.testing import CliRunner, Result

from deploy.commands.app import app
from deploy.ingest.forgotten_users import ForgottenUsers
from deploy.privacy.purge import purge
from deploy.service.user_histories import UserHistories
from model.training.backlog import Backlog
from model.training.micro_batch import SEQUENCES
from replay.config import ReplayConfig
from replay.replay import run
from replay.synthetic import SyntheticConfig
from streaming.bounds import DAY_MS
from streaming.committed_topic import read_all
from streaming.events import FORGET, Click
from streaming.ids import numeric_id
from streaming.job.accounting import count
from streaming.topics import STAMP, Topics, create_topics, fit_retention, keep_fitting
from tests.end_to_end.test_sequence_source_kafka import events, follow, make_source
from tests.model.training.recorded_log import make_log

pytestmark = pytest.mark.end_to_end
_numbers = itertools.count()
NOW = 1_700_000_000.0


@pytest.fixture
def admin(kafka_broker) -> Iterator[KafkaAdminClient]:
    admin = kafka_broker.connection.admin()
    yield admin
    admin.close()


@pytest.fixture
def topics() -> Topics:
    return Topics().prefixed(f"retention-{next(_numbers)}-")


def said(admin: KafkaAdminClient, topic: str) -> tuple[str, int]:
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    found = admin.describe_configs([resource], config_filter="all")["topic"][topic]
    return found[STAMP]["value"], int(found["retention.ms"]["value"])


def ends(kafka_broker, topic: str) -> dict[TopicPartition, int]:
    reader = kafka_broker.connection.consumer()
    partitions = [TopicPartition(topic, p) for p in reader.partitions_for_topic(topic)]
    found = reader.end_offsets(partitions)
    reader.close()
    return found


def test_a_new_topic_is_stamped_on_arrival_and_kept_for_so_long(kafka_broker, admin, topics):
    create_topics(admin, topics, keep_days=30)
    for topic in topics.of_users():
        assert said(admin, topic) == ("LogAppendTime", 30 * DAY_MS)
    for topic in (topics.items, topics.snapshots):
        assert said(admin, topic)[0] == "CreateTime"
    producer = kafka_broker.connection.producer()
    sent = producer.send(topics.clicks, b"1", timestamp_ms=10**12).get(10)
    producer.close()
    assert abs(sent.timestamp - time.time() * 1000) < 60_000


def test_a_topic_of_before_is_kept_whole_until_all_of_it_is_old(admin, topics, tmp_path: Path):
    create_topics(admin, topics)
    assert said(admin, topics.clicks) == ("CreateTime", -1)

    def fit(days_later: float, keep_days: float = 30) -> tuple[str, int]:
        now = NOW + days_later * 86_400
        fit_retention(admin, tmp_path, topics, keep_days, lambda: now)
        return said(admin, topics.clicks)

    assert fit(0) == ("LogAppendTime", -1)
    assert fit(29.9) == ("LogAppendTime", -1)
    assert fit(30) == ("LogAppendTime", 30 * DAY_MS)
    assert fit(31, keep_days=40) == ("LogAppendTime", 30 * DAY_MS)  # a shorter time is left
    assert fit(31, keep_days=7) == ("LogAppendTime", 7 * DAY_MS)
    assert fit(31, keep_days=0) == ("LogAppendTime", -1)


def test_retention_begins_without_a_restart(kafka_broker, admin, topics, tmp_path: Path):
    create_topics(admin, topics)
    now = [0.0]
    look = keep_fitting(kafka_broker.connection, tmp_path, topics, 30, lambda: now[0])
    for at, stamp in ((86_399, "CreateTime"), (86_400, "LogAppendTime")):
        now[0] = at
        look()
        assert said(admin, topics.clicks)[0] == stamp


def test_a_log_goes_on_where_it_was_although_its_clicks_are_gone(
    kafka_broker, admin, topics, tmp_path
):
    size = SyntheticConfig(users=100, items=80, events=9000, days=50)

    def play() -> int:
        config = ReplayConfig(synthetic=size)
        totals = run(
            config, kafka_broker.connection, topics, tmp_path, threading.Event(), lambda _: None
        )
        assert totals["clicks_produced"] == 9000
        return sum(ends(kafka_broker, topics.clicks).values())

    before = play()
    (partition,) = ends(kafka_broker, topics.clicks)
    for deleted in (8500, before):  # a part of the last chunk, and all of it
        admin.delete_records({partition: deleted})
        assert play() <= before + 10  # heartbeats
    accounts = count(kafka_broker.connection, topics)
    assert accounts.deleted and accounts.lost == 0


def test_the_trainer_goes_on_behind_what_was_deleted(kafka_broker, admin, topics, tmp_path):
    create_topics(admin, topics)
    ((log,), _) = make_log(60, partitions=1)
    producer = kafka_broker.connection.producer()
    for one in log:
        producer.send(topics.sequences, one.to_bytes(), one.key())
    producer.flush()
    producer.close()
    admin.delete_records({TopicPartition(topics.sequences, 0): 20})
    source: Any = make_source(kafka_broker.bootstrap, topics, tmp_path)
    source.seek({SEQUENCES: {0: 5}})
    batches = follow(source, Backlog({SEQUENCES: {0: 5}}, 16, 25), 40)
    assert events(batches) == log[20:]
    again = source.read(batches[0].plan)[1]
    assert [record.value for record in again[0]] == batches[0].sequences
    source.close()


def test_a_purge_deletes_what_everybody_has_read_and_no_more(kafka_broker, admin, topics, tmp_path):
    create_topics(admin, topics, keep_days=30)
    kafka = kafka_broker.connection
    producer = kafka.producer()
    for topic in (topics.clicks, topics.sequences, topics.clicks_dlq):
        for n in range(50):
            producer.send(topic, b"%d" % n)
    producer.flush()
    producer.close()
    group = f"{topics.clicks}-job"
    reader = kafka.consumer(group_id=group)
    reader.commit({TopicPartition(topics.clicks, 0): OffsetAndMetadata(50, "", -1)})
    reader.close()
    nobody = purge(tmp_path, kafka, topics, group)
    assert nobody.records[topics.clicks] == 50 and nobody.records[topics.sequences] == 0
    assert nobody.records[topics.clicks_dlq] == 50 and nobody.waiting[topics.sequences] == 50
    notes = ForgottenUsers(tmp_path)
    notes.note(Click("f", 7, 0, 1, FORGET))
    for folder, offset in (("service", 45), ("service/worker-2", 40)):
        histories = UserHistories(tmp_path / folder / "histories")
        histories.store([], {(topics.sequences, 0): offset})
        histories.close()
    checkpoint = tmp_path / "trainer" / "checkpoints" / f"{3:012d}"
    checkpoint.mkdir(parents=True)
    for trained, deleted in ((30, 30), (60, 10)):
        meta = {"trainer": {"offsets": {SEQUENCES: {"0": trained}}}}
        (checkpoint / "meta.json").write_text(json.dumps(meta))
        assert notes.asked(7) == "f"  # the second worker may read what was before the request
        assert purge(tmp_path, kafka, topics, group).records[topics.sequences] == deleted
    (worker,) = (tmp_path / "service" / "worker-2").iterdir()
    shutil.rmtree(worker)
    purge(tmp_path, kafka, topics, group)
    assert notes.asked(7) is None
    left = [record.value for record in read_all(kafka, topics.sequences)]
    assert left == [b"%d" % n for n in range(45, 50)]
    assert said(admin, topics.clicks) == ("LogAppendTime", 30 * DAY_MS)


def test_a_user_is_forgotten_looked_for_and_purged_by_commands(
    kafka_broker, admin, topics, tmp_path, monkeypatch
):
    create_topics(admin, topics)
    monkeypatch.setenv("SPARC_KAFKA__BOOTSTRAP", kafka_broker.bootstrap)
    monkeypatch.setenv("SPARC_KAFKA__PREFIX", topics.clicks.removesuffix("clicks"))

    def sparc(*words: str) -> Result:
        return CliRunner().invoke(app, [*words, "--data-dir", str(tmp_path)])

    assert "nowhere" in sparc("forget", "--verify", "ada").output
    assert sparc("forget", "x" * 300).exit_code == 1
    told = sparc("forget", "ada")
    assert told.exit_code == 0, told.output
    user = numeric_id("ada")
    (record,) = read_all(kafka_broker.connection, topics.clicks)
    click = Click.from_bytes(record.value)
    assert (record.key, click.user_id, click.event_type) == (b"%d" % user, user, FORGET)
    assert ForgottenUsers(tmp_path).asked(user) == click.event_id
    found = sparc("forget", "--verify", "ada", "--json")
    assert found.exit_code == 1
    places = {one["place"]: one["count"] for one in map(json.loads, found.output.splitlines())}
    assert places == {f"topic {topics.clicks}": 1, "service/forgotten": 1}
    assert sparc("forget", "--verify", "bob").exit_code == 0
    assert sparc("purge").exit_code == 1  # nobody said yes
    purged = sparc("purge", "--yes")
    assert purged.exit_code == 0, purged.output
    assert f"{topics.clicks}: 0 offsets deleted, 1 are yet to be read" in purged.output
