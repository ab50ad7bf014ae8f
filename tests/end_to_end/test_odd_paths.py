"""Directories named as people name them: no part goes astray, and a restart finds its state."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streaming.errors import StreamingError
from streaming.job.flink_rest import FlinkRest
from tests.conftest import ODD_NAME
from tests.streaming.job.live_stream import LiveStream
from tests.streaming.made_clicks import DELAY, click, heartbeat

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

START = 10**12
EVENTS = 600


@pytest.fixture
def stream(kafka_broker, flink_cluster, tmp_path) -> Iterator[LiveStream]:
    stream = LiveStream(kafka_broker, flink_cluster, tmp_path / ODD_NAME, "odd")
    yield stream
    stream.stop()
    stream.cancel()


def send(stream: LiveStream, start: int) -> None:
    stream.send([click(1 + n % 40, n + 1, start + n) for n in range(EVENTS)])
    stream.send([heartbeat(start + EVENTS + DELAY)])


def test_in_a_directory_of_any_name_a_job_goes_on_and_is_never_begun_anew_unasked(stream, tmp_path):
    send(stream, START)
    stream.start()
    stream.wait_until_drained()
    cluster = stream.cluster
    for process in (cluster.job_manager, cluster.task_manager):
        process.kill()
    for process in (cluster.job_manager, cluster.task_manager):
        process.start()
    cluster.wait_until_ready()
    stream.wait(lambda: stream.reports[-1].get("submissions") == 2)
    stream.wait_until_drained()
    assert len(stream.read(stream.topics.sequences)) == EVENTS

    # An operator stops the job with a savepoint elsewhere; its checkpoints go with it.
    flink = FlinkRest(cluster.address, cluster.tls)
    job = stream.reports[-1]["job"]
    elsewhere = tmp_path / f"elsewhere {ODD_NAME}"
    savepoint = flink.stop_with_savepoint(job, f"file:{elsewhere}", 60)
    flink.close()
    with pytest.raises(AssertionError, match="is not begun anew"):
        stream.wait(lambda: False, 60)
    assert isinstance(stream.error, StreamingError)
    assert savepoint in str(stream.error)
    stream.stop()
    stream.start(savepoint)
    send(stream, START + 10**6)
    stream.wait_until_drained()
    stream.stop()
    assert len(stream.read(stream.topics.sequences)) == EVENTS
    assert {path.name for path in tmp_path.iterdir()} == {ODD_NAME, elsewhere.name}
