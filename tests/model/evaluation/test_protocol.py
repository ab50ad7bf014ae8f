from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.evaluation import protocol
from model.evaluation.protocol import ProtocolError
from streaming.bounds import DAY_MS
from tests.model.evaluation.made_up_log import make_items, make_log, write_files

_EVENT = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5).map((86_400).__mul__))


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@given(st.lists(_EVENT, max_size=40), st.randoms(use_true_random=False))
def test_the_order_of_events_does_not_depend_on_the_order_of_the_file(rows, random):
    def order(rows):
        columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
        events = protocol.canonical_order(*columns)
        return list(zip(events.users_E.tolist(), events.items_E, events.times_E, strict=True))

    by_key = sorted(rows, key=lambda r: (r[2], _sha1("|".join(map(str, r)))))
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert order(shuffled) == [(u, i, t * 1000) for u, i, t in by_key]


def test_the_warm_up_ends_with_the_day_in_which_sixty_percent_of_the_events_end():
    log = make_log()
    events = log.events
    sixtieth = events.days_E[int(np.ceil(0.6 * len(events))) - 1]
    assert log.warm_up_day == sixtieth
    assert log.warm_up().days_E.max() == sixtieth
    assert next(iter(log.days())).queries.day > sixtieth


def test_a_query_knows_all_events_of_its_user_before_the_day_and_none_of_the_day():
    log = make_log()
    events = log.events
    rows = list(
        zip(events.users_E.tolist(), events.items_E.tolist(), events.times_E.tolist(), strict=True)
    )
    asked = 0
    for day in log.days():
        for user, history in zip(day.queries.users_B.tolist(), day.queries.histories, strict=True):
            past = [(i, t) for u, i, t in rows if u == user and t < day.queries.now_ms]
            assert list(zip(history.items, history.times, strict=True)) == past
            assert past
        today = [r for r in rows if r[2] // DAY_MS == day.queries.day]
        known = {u for u, _, t in rows if t < day.queries.now_ms}
        users_R = day.queries.users_B[day.query_R]
        assert list(zip(users_R.tolist(), day.targets_R.tolist(), strict=True)) == [
            (u, i) for u, i, _ in today if u in known
        ]
        assert len(day.events) == len(today)
        asked += len(users_R)
    assert asked > 100


def test_a_history_handed_out_does_not_grow_with_later_days():
    days = list(make_log().days())
    assert all(max(h.times) < d.queries.now_ms for d in days for h in d.queries.histories)


def test_cutting_the_log_keeps_the_warm_up_and_the_days_before_the_cut():
    log = make_log()
    days = list(log.days())
    cut = log.until(days[3].queries.day)
    assert cut.warm_up_day == log.warm_up_day
    assert [d.queries.day for d in cut.days()] == [d.queries.day for d in days[:4]]


def test_settings_can_be_chosen_without_a_look_at_the_evaluation():
    log = make_log()
    tail = log.tail_of_warm_up()
    assert tail.events.days_E.max() == log.warm_up_day
    assert tail.warm_up_day < log.warm_up_day


def test_files_are_read_as_they_were_written(tmp_path: Path):
    log, items = make_log(), make_items()
    events_path, items_path = write_files(tmp_path, log, items)
    events = protocol.read_events(events_path)
    assert np.array_equal(events.items_E, log.events.items_E)
    assert np.array_equal(events.times_E, log.events.times_E)
    read = protocol.read_items(items_path)
    assert [(i.item_id, i.title, i.category) for i in read] == [
        (i.item_id, i.title, i.category) for i in items
    ]
    assert read[0].external_id == "A3"


def test_a_catalogue_may_lack_titles_and_categories(tmp_path: Path):
    path = tmp_path / "items.tsv"
    path.write_text("item_id\ti_category\n9\t\n4\t7\n")
    assert [(i.item_id, i.category) for i in protocol.read_items(path)] == [(4, "7"), (9, "0")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("events", "user_id,item_id,time\n1,2,3\n1,x,3\n", "line 3: item_id 'x' is not an integer"),
        ("events", "user_id,item_id\n1,2\n", "line 1: no column 'time'"),
        ("events", "user_id,item_id,time\n1,2\n", "line 2: 2 fields, but the header has 3"),
        ("items", "item_id,title\n5,a\n5,b\n", "line 3: item_id 5 is listed a second time"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, name: str, text: str, message: str):
    path = tmp_path / f"{name}.csv"
    path.write_text(text)
    read = protocol.read_events if name == "events" else protocol.read_items
    with pytest.raises(ProtocolError, match=message):
        read(path)


def test_an_empty_log_is_refused():
    empty = np.empty(0, dtype=np.int64)
    with pytest.raises(ProtocolError, match="empty"):
        protocol.split(protocol.canonical_order(empty, empty, empty))


def test_an_event_of_an_unlisted_item_is_refused():
    with pytest.raises(ProtocolError, match="not in the catalogue"):
        protocol.check_log(make_log(), make_items()[:80])
