"""The file's path to user sequences is the pipeline's: replay, topic, streaming job.

The job itself is compared with the same oracle, record by record, in tests/end_to_end.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from model.evaluation import protocol
from model.evaluation.user_sequences import SequencesOfUsers
from replay.staging import stage
from streaming.events import HEARTBEAT, HISTORY_LENGTH, Click, UserSequence
from tests.model.evaluation.made_up_log import make_items, make_log, write_files
from tests.streaming.oracle import Record, expect

BEAUTY = Path(__file__).parents[4] / "shared" / "data" / "beauty"
NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000


def by_pipeline(events: Path, items: Path, folder: Path) -> tuple[list, dict]:
    """The clicks in the order of the replay, and what the job makes of them."""
    log = stage(events, items, folder, NOW_MS)
    clicks = [
        Click(event_id, user, item, time)
        for batch in log.read_events()
        for event_id, user, item, time in zip(
            batch.event_ids, batch.user_ids, batch.item_ids, batch.times_ms, strict=True
        )
    ]
    records = [Record(click.key(), click.to_bytes(), NOW_MS) for click in clicks]
    end = Click("end", 0, 0, log.last_time_ms + DAY_MS, HEARTBEAT)
    out = expect([*records, Record(None, end.to_bytes(), NOW_MS)])
    assert not out.late
    assert not out.dead_letters
    assert not out.duplicates
    return clicks, out.sequences


def by_evaluation(events: Path) -> tuple[protocol.Events, dict[int, list[UserSequence]]]:
    """The events in the order of the protocol, and their sequences by user, a day at a time."""
    log = protocol.read_events(events)
    taken, found = SequencesOfUsers(), defaultdict(list)
    days_E = log.days_E
    for day in sorted(set(days_E.tolist())):
        for sequence in taken.take(log[days_E == day]):
            found[sequence.user_id].append(sequence)
    return log, found


def compare(events: Path, items: Path, folder: Path) -> int:
    clicks, theirs = by_pipeline(events, items, folder)
    log, ours = by_evaluation(events)
    order = list(zip(log.users_E.tolist(), log.items_E.tolist(), log.times_E.tolist(), strict=True))
    assert order == [(c.user_id, c.item_id, c.event_time) for c in clicks]
    assert ours.keys() == theirs.keys()
    for user, sequences in ours.items():
        assert sequences == [replace(sequence, event_id="") for sequence in theirs[user]]
    return max(len(sequences) for sequences in ours.values())


def test_a_log_with_many_events_a_day_gives_the_same_sequences_on_both_ways(tmp_path: Path):
    log = make_log(events=1500, users=12, days=200)
    distinct = sorted(
        set(
            zip(
                log.events.users_E.tolist(),
                log.events.items_E.tolist(),
                log.events.times_E.tolist(),
                strict=True,
            )
        )
    )
    random.Random(0).shuffle(distinct)  # the order of the file must not matter
    events, items = write_files(tmp_path, log, make_items())
    rows = "".join(f"{user},{item},{time // 1000}\n" for user, item, time in distinct)
    events.write_text("user_id,item_id,time\n" + rows, encoding="utf-8")
    longest = compare(events, items, tmp_path / "data")
    assert longest > HISTORY_LENGTH, "some histories must be cut"


def test_the_head_of_a_real_log_gives_the_same_sequences_on_both_ways(tmp_path: Path):
    if not BEAUTY.is_dir():
        pytest.skip("the real log ../shared/data/beauty is not here")
    with (BEAUTY / "events.csv").open(encoding="utf-8") as file:
        head = [next(file) for _ in range(8_001)]
    events = tmp_path / "events.csv"
    events.write_text("".join(head), encoding="utf-8")
    compare(events, BEAUTY / "items.csv", tmp_path / "data")
