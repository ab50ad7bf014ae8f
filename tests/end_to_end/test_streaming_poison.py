"""Every kind of poison through the real job, and back again with `sparc dlq`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.commands.app import app
from tests.streaming.job.live_stream import LiveStream
from tests.streaming.made_clicks import DELAY, click, evolved, heartbeat, poison
from tests.streaming.oracle import Oracle

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

NOW = 1_000_000_000_000


@pytest.fixture(scope="module")
def stream(kafka_broker, flink_cluster, tmp_path_factory) -> Iterator[LiveStream]:
    folder = tmp_path_factory.mktemp("poison")
    stream = LiveStream(kafka_broker, flink_cluster, folder, "poison")
    stream.start()
    yield stream
    stream.stop()


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


def sparc(stream: LiveStream, *arguments: str, folder: Path) -> str:
    variables = {
        "SPARC_KAFKA__BOOTSTRAP": stream.broker.bootstrap,
        "SPARC_KAFKA__PREFIX": stream.topics.clicks.removesuffix("clicks"),
        "SPARC_DATA_DIR": str(folder),
        "COLUMNS": "200",
    }
    result = CliRunner().invoke(app, list(arguments), env=variables)
    assert result.exit_code == 0, result.output
    return result.output


def test_each_is_a_dead_letter_that_names_what_is_wrong(stream, oracle):
    bad = poison(NOW)
    log = [click(1, 1, NOW), heartbeat(NOW), *(record for record, _ in bad.values())]
    # Had one of them moved the watermark, this click would come too late.
    log += [click(1, 2, NOW - DELAY + 1), *evolved(1, 3, NOW + 1).values()]
    log.append(heartbeat(NOW + 1 + DELAY))
    stream.send(log)
    stream.wait_until_drained()
    dead = {
        int(headers["offset"]): (headers["reason"].decode(), record.key, record.value)
        for record in stream.read(stream.topics.clicks_dlq)
        for headers in [dict(record.headers)]
    }
    assert dead == {
        offset: (reason, record.key, record.value)
        for offset, (record, reason) in enumerate(bad.values(), 2)
    }
    stream.forget(stream.topics.clicks_dlq)
    expected = oracle.expect([(0, record) for record in log])
    assert [s.target for s in expected.sequences[1]] == [2, 1, 3, 3]
    stream.assert_as_expected(expected)
    assert stream.accounts().lost == 0


def test_they_are_listed_with_their_reasons(stream, tmp_path):
    shown = sparc(stream, "dlq", "list", "--limit", "500", folder=tmp_path)
    bad = poison(NOW)
    for _, reason in bad.values():
        assert reason in shown
    assert f"{len(bad)}  dead letters" in shown
    only = sparc(stream, "dlq", "list", "--reason", "key", "--json", folder=tmp_path)
    assert [json.loads(line)["reason"] for line in only.splitlines()] == [
        "key: missing",
        *["key: not the user_id"] * 3,
    ]


def test_mended_and_sent_again_they_become_sequences(stream, oracle, tmp_path):
    listed = sparc(stream, "dlq", "list", "--json", folder=tmp_path).splitlines()
    letters = [json.loads(line) for line in listed]
    mended = next(d for d in letters if d["reason"] == "user_id: missing")
    mended["value"] = click(7, 8, NOW + 60_000, event_id="mended").value.decode()
    edited = tmp_path / "edited.jsonl"
    edited.write_text(json.dumps(mended) + "\n", encoding="utf-8")
    said = sparc(stream, "dlq", "replay", "--edited", str(edited), folder=tmp_path)
    assert said.startswith("1 dead letters were sent")
    with_key = [d["place"] for d in letters if d["reason"] == "key: missing"]
    sparc(stream, "dlq", "replay", *with_key, "--set-key", folder=tmp_path)
    sparc(stream, "dlq", "replay", "--reason", "event_time: neg", folder=tmp_path)
    stream.send([heartbeat(NOW + 60_000 + DELAY)])
    stream.wait_until_drained()

    again = [dict(r.headers) for r in stream.read(stream.topics.clicks_dlq)]
    assert [(h["reason"], h["dead_letter"]) for h in again if "dead_letter" in h] == [
        (
            b"event_time: negative",
            next(d["place"] for d in letters if d["reason"] == "event_time: negative").encode(),
        )
    ]
    assert [s.event_id for s in stream.sequences()[7]] == ["mended"]
    # The time of the one without a key has gone by, by the heartbeat that came after it.
    assert [r.key for r in stream.read(stream.topics.clicks_late)] == [b"7"]
    assert stream.accounts().lost == 0
