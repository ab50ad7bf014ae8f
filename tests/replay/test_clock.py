from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from replay.clock import SimulatedClock


class Time:
    """Real time that only passes when somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def departures(times_ms, time, **pace):
    clock = SimulatedClock(times_ms[0], pace.get("rate", 0), pace.get("speedup", 0), time)
    left = []
    for time_ms in times_ms:
        time.seconds += clock.delay(time_ms)
        clock.leave(time_ms)
        left.append(time.seconds - 1000)
    return left


def test_without_a_pace_nothing_waits():
    clock = SimulatedClock(0, 0, 0, Time())
    assert not clock.paced
    assert departures([0, 10_000, 10**9], Time()) == [0, 0, 0]


def test_a_rate_spaces_events_evenly_whatever_their_times():
    assert departures([0, 0, 5, 10**9], Time(), rate=4) == [0, 0.25, 0.5, 0.75]


def test_a_speedup_shortens_the_pauses_of_the_log():
    assert departures([0, 60_000, 60_000, 180_000], Time(), speedup=60) == [0, 1, 1, 3]


def test_a_late_start_of_an_event_is_made_up_for():
    time = Time()
    clock = SimulatedClock(0, 10, 0, time)
    clock.leave(0)
    time.seconds += 5  # Kafka was away
    assert clock.delay(1) == 0


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=30), st.floats(0.1, 1e6))
def test_the_log_never_runs_ahead_of_its_clock(gaps, speedup):
    times = [sum(gaps[: k + 1]) for k in range(len(gaps))]
    for moment, time_ms in zip(departures(times, Time(), speedup=speedup), times, strict=True):
        assert abs(moment - (time_ms - times[0]) / 1000 / speedup) < 1e-6


def test_the_time_in_the_log_lies_between_the_last_event_and_the_next():
    time = Time()
    clock = SimulatedClock(1000, 0, 10, time)
    clock.leave(1000)
    assert clock.time_ms(next_ms=31_000) == 1000
    time.seconds += 2
    assert clock.time_ms(next_ms=31_000) == 21_000
    time.seconds += 2
    assert clock.time_ms(next_ms=31_000) == 31_000
    assert SimulatedClock(1000, 5, 0, time).time_ms(next_ms=31_000) == 1000
