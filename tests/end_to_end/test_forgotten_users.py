"""A user who is to be forgotten: the real job, killed on the way, and what the topics hold."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streaming.events import FORGET, Click, Forgotten, UserSequence, parse_sequence
from streaming.ids import numeric_id
from tests.streaming.job.live_stream import LiveStream
from tests.streaming.made_clicks import DELAY, RECORDED, click, heartbeat
from tests.streaming.oracle import Record

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

START = 10**12


@pytest.fixture
def stream(kafka_broker, flink_cluster, tmp_path) -> Iterator[LiveStream]:
    stream = LiveStream(kafka_broker, flink_cluster, tmp_path, "forgotten_users")
    yield stream
    stream.stop()


def request(user: int) -> Record:
    """As the service writes it."""
    asked = Click(f"forget-{user}", user, 0, RECORDED, FORGET)
    return Record(asked.key(), asked.to_bytes(), RECORDED)


def test_the_job_begins_anew_with_the_user_and_says_where(stream: LiveStream) -> None:
    def clicks(begin: int) -> list[Record]:
        return [click(n % 3, n, begin + 1000 * n) for n in range(12)]

    stream.start()
    before = clicks(START)
    stream.send([*before, heartbeat(START + 12_000 + DELAY)])
    stream.wait(lambda: bool(stream.reports) and stream.reports[-1].get("checkpoints", 0) > 1)
    waiting = [click(1, 99, START + 50_000), click(2, 98, START + 50_000)]
    ada = Click("forget-ada", 7, 0, RECORDED, FORGET, external_user_id="ada").to_bytes()
    stream.send([*waiting, request(1), Record(b"ada", ada, RECORDED)])
    stream.cluster.task_manager.kill()
    stream.cluster.task_manager.start()
    stream.wait(lambda: stream.reports[-1].get("restarts", 0) > 0)
    # the same click again: of user 1 nobody remembers it
    again = [before[1], before[2], *clicks(START + 100_000)]
    stream.send([*again, heartbeat(START + 112_000 + DELAY)])
    stream.wait_until_drained()
    records = list(stream.read(stream.topics.sequences))
    said = [parse_sequence(r.key, r.value) for r in records]
    # by the key goes the partition, which has to be that of the user's sequences
    assert [r.key for r in records] == [b"%d" % one.user_id for one in said if one]
    assert numeric_id("ada") in [one.user_id for one in said if isinstance(one, Forgotten)]
    place = said.index(Forgotten("forget-1", 1, dropped=1))
    of_one = [(n, s) for n, s in enumerate(said) if isinstance(s, UserSequence) and s.user_id == 1]
    assert [s.position for n, s in of_one if n < place] == [1, 2, 3, 4]
    assert [s.position for n, s in of_one if n > place] == [1, 2, 3, 4]
    assert [s.history_items for n, s in of_one if n > place] == [[], [1], [1, 4], [1, 4, 7]]
    others = [s for s in said if isinstance(s, UserSequence) and s.user_id == 2]
    assert [s.position for s in others] == list(range(1, 10))
    accounts = stream.accounts()
    assert (accounts.lost, accounts.forgotten, accounts.duplicates) == (0, 1, 1)
    assert accounts.clicks == 12 + 2 + 2 + 12 and accounts.late == 1  # of user 1, from before
