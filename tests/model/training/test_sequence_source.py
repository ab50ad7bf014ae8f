"""What is poison; reading from a real broker is tested end to end."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import orjson
import pytest
import structlog

from streaming.bounds import EventError
from streaming.events import UserSequence
from streaming.items import Item, announcement
from tests.model.training.in_memory import RecordedSource
from tests.model.training.recorded_log import make_log

GOOD = UserSequence("e" * 32, 7, 1000, 3, [1, 2], [10, 20], 5)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("user_id", "9223372036854775808", "does not fit 64 bits"),
        ("target", "-9223372036854775809", ""),
        ("history_items", "[1,18446744073709551615]", "does not fit 64 bits"),
        ("position", "0", "position 0 is below 1"),
        ("event_time", "-1", "event_time -1 is negative"),
        ("event_time", "1400000000000000000", "looks like nanoseconds, milliseconds expected"),
        ("history_times", "[10,-20]", "history_times -20 is negative"),
        ("history_times", "[10,1400000000000000]", "looks like microseconds"),
        ("history_items", "[-1,2]", "is negative"),
        ("target", "-1", "is negative"),
        ("history_times", "[1]", "differ in length"),
        ("event_time", "1e400", ""),
    ],
)
def test_a_sequence_that_the_model_cannot_take_is_poison(field: str, value: str, says: str) -> None:
    record = orjson.loads(GOOD.to_bytes())
    text = ",".join(
        f'"{name}":{value if name == field else orjson.dumps(of).decode()}'
        for name, of in record.items()
    )
    with pytest.raises(EventError) as raised:
        UserSequence.from_bytes(b"{%s}" % text.encode())
    assert says in str(raised.value)


def test_a_history_beyond_the_agreed_length_is_poison() -> None:
    long = dataclasses.replace(GOOD, history_items=[1] * 51, history_times=[1] * 51)
    with pytest.raises(EventError, match="holds 51, at most 50"):
        UserSequence.from_bytes(long.to_bytes())


BROKEN = [None, b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"item_id": 1.5}']


@pytest.mark.parametrize("value", BROKEN)
def test_broken_bytes_are_poison(value: bytes | None) -> None:
    with pytest.raises(EventError):
        announcement(None, value)
    with pytest.raises(EventError):
        UserSequence.from_bytes(value)


def test_good_records_pass_unchanged() -> None:
    assert UserSequence.from_bytes(GOOD.to_bytes()) == GOOD
    item = Item(5, "title", "category", "B000", 12)
    assert announcement(b"5", item.to_bytes()) == item


def test_files_of_json_lines_are_a_source(tmp_path: Path) -> None:
    (log,), items = make_log(12, partitions=1)
    (tmp_path / "s.jsonl").write_bytes(b"\n".join([*(s.to_bytes() for s in log), b"{broken"]))
    (tmp_path / "i.jsonl").write_bytes(b"\n".join(i.to_bytes() for i in items) + b"\n")
    source = RecordedSource.from_files(tmp_path / "s.jsonl", tmp_path / "i.jsonl")
    with structlog.testing.capture_logs() as logs:
        polled = source.poll(())
    assert [r.value for r in polled.sequences[0]] == [*log, None]
    assert [r.value for r in polled.items[0]] == items
    assert polled.final
    assert (logs[0]["topic"], logs[0]["partition"], logs[0]["offset"]) == ("sequences", 0, 12)
