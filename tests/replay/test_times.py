"""What a column of times holds is told by its content: seconds to nanoseconds, or ISO 8601."""

from __future__ import annotations

import pytest

from replay.errors import ReplayError
from replay.log_file import read_events

MS = 1569888000123


def times(write, now_ms, *values, header="user_id,item_id,time"):
    bad = []
    rows = "".join(f'1,2,"{value}"\n' for value in values)
    found = read_events(write(f"{header}\n{rows}"), now_ms, bad.append)
    return [event.time_ms for event in found], [b.reason for b in bad]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1569888000", 1569888000000),
        ("1569888000.123", MS),
        ("1.569888E9", 1569888000000),
        ("1569888000123", MS),
        ("1569888000123999", MS),
        ("1569888000123999999", MS),
        ("2019-10-01 00:00:00.123 UTC", MS),
        ("2019-10-01T00:00:00.123Z", MS),
        ("2019-10-01T02:00:00.123+02:00", MS),
        ("2019-10-01 02:00:00.123 +0200", MS),
        ("2019-10-01 00:00:00", 1569888000000),
        ("2019-10-01", 1569888000000),
        ("20191001", 1569888000000),
    ],
)
def test_every_usual_form_of_a_time_is_known(write, now_ms, value, expected):
    assert times(write, now_ms, value) == ([expected], [])


def test_the_column_decides_and_what_differs_is_a_bad_line(write, now_ms):
    found, bad = times(write, now_ms, *["2019-10-01 00:00:00"] * 3, "soon", "1569888000")
    assert len(found) == 3
    assert len(bad) == 2
    assert "'soon'" in bad[0]
    found, bad = times(write, now_ms, *["1569888000"] * 3, "2019-10-01 00:00:00", "1569888000123")
    assert len(found) == 3
    assert len(bad) == 2


def test_a_time_of_no_known_form_is_refused_with_the_forms_that_are(write, now_ms):
    for value in ("12/1/2010 8:26", "12:30:00", "05 3, 2011"):
        with pytest.raises(ReplayError) as caught:
            times(write, now_ms, value, header="user_id,item_id,date")
        for word in ("date", value, "seconds", "ISO 8601"):
            assert word in str(caught.value)
