from __future__ import annotations

import csv
import errno
import hashlib
import random
import tempfile
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replay import staging
from replay.config import ReplayConfig
from replay.errors import ReplayError
from replay.exclusive import exclusive
from replay.formats.record import NOBODY
from replay.identity import event_id
from replay.staging import stage
from streaming.ids import numeric_id

EVENTS = "user_id,item_id,time\n1,10,1369699200\n2,11,1369699100\n1,12,1369699300\n"
ITEMS = "item_id,title\n10,Soap\n11,Comb\n13,Wig\n"


def rows(log, start=0):
    return [
        row
        for batch in log.read_events(start)
        for row in zip(batch.user_ids, batch.item_ids, batch.times_ms, batch.event_ids, strict=True)
    ]


def in_canonical_order(events):
    """EVALUATION.md's order, by plain sorting: time, then the SHA-1 of `user|item|time`."""

    def key(event):
        user, item, seconds = event
        text = f"{user}|{item}|{seconds}"
        return seconds, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    return [
        (numeric_id(u), numeric_id(i), t * 1000, event_id(u, i, t * 1000))
        for u, i, t in sorted(events, key=key)
    ]


ids = st.one_of(
    st.integers(0, 10**19).map(str),
    st.text("AB0123456789", min_size=1, max_size=14),
    st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8),
).filter(lambda text: text.casefold() not in NOBODY)  # hypothesis knows these words from the code
times = st.one_of(st.integers(788918400, 1750000000), st.sampled_from([1369699200, 1369785600]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(ids, ids, times), min_size=1, max_size=60))
def test_the_order_and_ids_are_those_of_a_plain_sort(events):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "events.inter")
        text = "user_id:token\titem_id:token\ttimestamp:float\n"
        text += "".join(f"{u}\t{i}\t{t}\n" for u, i, t in events)
        path.write_text(text, encoding="utf-8")
        log = stage(path, None, Path(folder), 1_750_000_000_000)
        assert rows(log) == in_canonical_order(events)


def test_the_order_does_not_depend_on_the_order_in_the_file(write, tmp_path, now_ms):
    lines = [f"{k % 50},{k % 37},{1369699200 + 86400 * (k % 3)}" for k in range(1000)]
    logs = []
    for seed in range(2):
        random.Random(seed).shuffle(lines)
        path = write("user_id,item_id,time\n" + "\n".join(lines), f"events{seed}")
        logs.append(rows(stage(path, None, tmp_path / str(seed), now_ms)))
    assert logs[0] == logs[1]


def test_milliseconds_order_the_events_of_one_second(write, tmp_path, now_ms):
    text = "user_id,parent_asin,rating,timestamp\n" + "".join(
        f"AU{k},B{k},5.0,{1369699200000 + 999 - k}\n" for k in range(20)
    )
    log = stage(write(text), None, tmp_path, now_ms)
    assert [row[2] for row in rows(log)] == [1369699200000 + 980 + k for k in range(20)]
    assert rows(log)[0][3] == event_id("AU19", "B19", 1369699200000)


def test_reading_can_start_anywhere(write, tmp_path, now_ms):
    text = "user_id,item_id,time\n" + "".join(f"1,{k},{1369699200 + k}\n" for k in range(20_000))
    log = stage(write(text), None, tmp_path, now_ms)
    everything = rows(log)
    for start in (0, 1, 8191, 8192, 8193, 19_999, 20_000, 30_000):
        assert rows(log, start) == everything[start:]
        first = next(iter(log.read_events(start)), None)
        assert first is None or first.position == start
    assert [p for p, _ in log.read_items(19_990)] == list(range(19_990, 20_000))


def test_the_catalogue_and_the_events_make_the_items(write, tmp_path, now_ms):
    log = stage(write(EVENTS, "events"), write(ITEMS, "items"), tmp_path, now_ms)
    items = {item.item_id: item for _, item in log.read_items()}
    assert (log.events, log.items, log.bad_lines) == (3, 4, 0)
    assert {k: (v.title, v.listed_at) for k, v in items.items()} == {
        10: ("Soap", 1369699200000),
        11: ("Comb", 1369699100000),
        12: ("", 1369699300000),  # clicked, but not in the catalogue
        13: ("Wig", 1369699100000),  # never clicked: listed when the log begins
    }
    assert (log.first_time_ms, log.last_time_ms) == (1369699100000, 1369699300000)


def test_without_a_catalogue_the_items_are_those_of_the_events(write, tmp_path, now_ms):
    text = "A39HTATAQ9V7YF,B000AAAAAA,5.0,1369699200\nA39HTATAQ9V7YF,B000AAAAAB,5.0,1369699200\n"
    log = stage(write(text), None, tmp_path, now_ms)
    assert {(i.item_id, i.external_id) for _, i in log.read_items()} == {
        (numeric_id(asin), asin) for asin in ("B000AAAAAA", "B000AAAAAB")
    }


def test_an_item_twice_in_a_table_is_an_error_with_both_lines(write, tmp_path, now_ms):
    items = write(ITEMS + "10,Soap again\n", "items.csv")
    with pytest.raises(ReplayError, match=r"items.csv line 5: item_id 10 is already in line 2; "):
        stage(write(EVENTS, "events"), items, tmp_path / "data", now_ms)
    assert list((tmp_path / "data" / "replay").iterdir()) == []


def test_amazon_metadata_may_repeat_an_item_and_the_first_entry_counts(write, tmp_path, now_ms):
    meta = '{"asin": "10", "title": "%s", "category": []}\n'
    items = write(meta % "Soap" + meta % "Other", "meta")
    log = stage(write(EVENTS, "events"), items, tmp_path, now_ms)
    assert log.bad_lines == 1
    assert log.first_bad_lines[0].endswith("line 2: item 10 is already in line 1; that one is kept")
    assert "Soap" in {item.title for _, item in log.read_items()}


def test_bad_lines_are_counted_and_all_of_them_kept_in_a_file(write, tmp_path, now_ms):
    events = write(EVENTS + ",1,1369699200\n" * 25, "events")
    log = stage(events, write(ITEMS + ",Brush\n", "items"), tmp_path, now_ms)
    assert (log.events, log.bad_lines, len(log.first_bad_lines)) == (3, 26, 10)
    with (log.directory / "bad_lines.csv").open(newline="") as file:
        reported = list(csv.DictReader(file))
    assert [int(r["line"]) for r in reported] == [*range(5, 30), 5]
    assert reported[0]["reason"] == "user_id is empty"


def test_strict_stops_at_the_first_bad_line_also_on_a_second_start(write, tmp_path, now_ms):
    events = write(EVENTS + ",1,1369699200\n,1,1369699200\n", "events")
    message = r"events line 5: user_id is empty; correct the line"
    with pytest.raises(ReplayError, match=message):
        stage(events, None, tmp_path, now_ms, strict=True)
    assert stage(events, None, tmp_path, now_ms).bad_lines == 2
    with pytest.raises(ReplayError, match=message):
        stage(events, None, tmp_path, now_ms, strict=True)


def test_a_log_without_a_usable_line_is_refused(write, tmp_path, now_ms):
    with pytest.raises(ReplayError, match=r"no usable event \(2 bad lines, the first: .* line 2"):
        stage(write("user_id,item_id,time\nx,1,2\ny,1,2\n"), None, tmp_path, now_ms)
    with pytest.raises(ReplayError, match=r"no usable event \(no lines\)"):
        stage(write("user_id,item_id,time\n"), None, tmp_path, now_ms)
    with pytest.raises(ReplayError, match="no usable item"):
        stage(write(EVENTS), write("item_id,title\n", "items"), tmp_path, now_ms)


def test_a_second_start_does_not_stage_again_and_a_changed_file_does(
    write, tmp_path, now_ms, monkeypatch
):
    data = tmp_path / "data"
    first = stage(write(EVENTS, "events"), write(ITEMS, "items"), data, now_ms)
    built = []
    build = staging._build
    monkeypatch.setattr(staging, "_build", lambda *a: built.append(a) or build(*a))
    assert stage(tmp_path / "events", tmp_path / "items", data, now_ms) == first
    (tmp_path / "events").touch()
    assert stage(tmp_path / "events", tmp_path / "items", data, now_ms) == first
    moved = write(EVENTS, "moved")
    assert stage(moved, tmp_path / "items", data, now_ms) == first
    assert built == []
    write(EVENTS + "3,14,1369699999\n", "events")
    assert stage(tmp_path / "events", tmp_path / "items", data, now_ms).events == 4
    assert len(built) == 1
    assert len(list((data / "replay").glob("log-*"))) == 1  # the old one is gone


def test_a_damaged_stage_is_made_again(write, tmp_path, now_ms):
    events = write(EVENTS)
    log = stage(events, None, tmp_path, now_ms)
    (log.directory / "items.parquet").unlink()
    assert stage(events, None, tmp_path, now_ms).items == 3
    (log.directory / "stage.json").write_text("{")
    assert len(rows(stage(events, None, tmp_path, now_ms))) == 3


def test_nothing_is_left_of_a_staging_that_fails(write, tmp_path, now_ms):
    text = "user_id,item_id,time\n" + "".join(
        f"{k * 7919 % 1009},{k % 97},{1369699200 + k}\n" for k in range(50_000)
    )
    path = write(text, "log.gz", compress=True)
    path.write_bytes(path.read_bytes()[:-1000])
    data = tmp_path / "data"
    left_by_a_killed_replay = data / "replay" / ".partial-log-1-1"
    left_by_a_killed_replay.mkdir(parents=True)
    with pytest.raises(ReplayError, match="truncated"):
        stage(path, None, data, now_ms)
    assert list((data / "replay").iterdir()) == []


def test_a_data_directory_that_cannot_be_written_is_a_clear_error(write, tmp_path, now_ms):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(ReplayError, match="data/replay: .*; make it writable"):
        stage(write(EVENTS), None, tmp_path / "data", now_ms)


def test_the_sort_goes_out_of_core_when_memory_is_short(write, tmp_path, now_ms):
    count = 150_000
    text = "user_id,item_id,time\n" + "".join(
        f"{k * 7919 % 100003},{k * 31 % 9973},{1369699200 + 86400 * (k * 17 % 500)}\n"
        for k in range(count)
    )
    log = stage(write(text), None, tmp_path, now_ms, memory_mb=64)
    ordered = [(row[2], row[3]) for row in rows(log)]
    assert len(ordered) == count
    assert ordered == sorted(ordered)


@pytest.mark.parametrize(
    ("name", "events", "items"), [("beauty", 153_776, 12_101), ("toys", 128_773, 11_924)]
)
def test_a_real_log_has_the_order_of_a_plain_sort(shared, tmp_path, now_ms, name, events, items):
    folder = shared / name
    log = stage(folder / "events.csv", folder / "items.csv", tmp_path, now_ms)
    assert (log.events, log.items, log.bad_lines) == (events, items, 0)
    with (folder / "events.csv").open(newline="") as file:
        plain = [(r["user_id"], r["item_id"], int(r["time"])) for r in csv.DictReader(file)]
    assert rows(log) == in_canonical_order(plain)
    some = next(item for _, item in log.read_items() if item.item_id == 1)
    assert some.category not in ("", "0")
    assert bool(some.title) == (name == "beauty")


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(write, tmp_path, now_ms, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(staging, "_write_raw", full)
    with pytest.raises(ReplayError, match="no space left on the disk of .*/replay; free some"):
        stage(write(EVENTS), None, tmp_path / "data", now_ms)
    assert list((tmp_path / "data" / "replay").iterdir()) == []


def test_a_sort_that_does_not_fit_is_a_clear_error(write, tmp_path, now_ms, monkeypatch):
    def too_much(*arguments):
        raise duckdb.OutOfMemoryException("Out of Memory Error: failed to offload\nmore")

    monkeypatch.setattr(staging, "sort", too_much)
    with pytest.raises(ReplayError, match=r"failed to offload\); free disk space there, or raise"):
        stage(write(EVENTS), None, tmp_path / "data", now_ms)
    assert list((tmp_path / "data" / "replay").iterdir()) == []


def test_only_one_replay_uses_a_data_directory(tmp_path):
    with (
        exclusive(tmp_path),
        pytest.raises(ReplayError, match="another replay runs with the data directory"),
        exclusive(tmp_path),
    ):
        pass
    with exclusive(tmp_path):
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 5.0, "speedup": 5.0}, "exclude each other"),
        ({"rate": -1.0}, "positive"),
        ({"dataset": "amazon-2014-beauty", "events": Path("x")}, "exclude each other"),
        ({"items": Path("x")}, "a catalogue without a log"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ReplayError, match=message):
        ReplayConfig(**settings)
