"""The job's parser and `Click.from_bytes` take and refuse the same records, for the same field."""

from __future__ import annotations

import base64
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from deploy.local.flink_cluster import flink_home
from deploy.local.java import find_java
from replay.resumption import POSITION
from streaming.events import Click
from streaming.ids import numeric_id, shop_id
from tests.streaming.made_clicks import DELAY, RECORDED, evolved, poison
from tests.streaming.oracle import Record, read
from tests.streaming.test_bounds import RAW, changed

AHEAD_MS = 300_000
NOW = RECORDED + 1000
CLICK = Click("e", 7, 8, RECORDED - 1000)
NAMED = Click(
    "e", *map(numeric_id, ("ada", "B0")), RECORDED - 1000,
    external_user_id="ada", external_item_id="B0",
)  # fmt: skip
TIMESTAMPS = st.sampled_from([RECORDED, RECORDED - AHEAD_MS - 1000, RECORDED - AHEAD_MS - 1001])

Verdicts = Callable[[list[Record]], list[str]]


class Java:
    """The classes of the job, asked by the two programs beside this file."""

    def __init__(self, jars: Path, made: Path) -> None:
        self._java = find_java()
        compiler = self._java.resolve().with_name("javac")
        if not compiler.is_file():
            pytest.skip("no JDK beside the Java runtime")
        flink = next((flink_home() / "lib").glob("flink-dist-*.jar"))
        self._path = ":".join(map(str, [made, *(jars / "flink").glob("*.jar"), flink]))
        programs = ("ClickVerdicts", "Arrivals", "IdNumbers")
        sources = [Path(__file__).with_name(f"{name}.java") for name in programs]
        subprocess.run([compiler, "-cp", self._path, "-d", made, *sources], check=True)

    def __call__(self, program: str, lines: list[str], *arguments: int | str) -> list[str]:
        command = [self._java, "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", self._path]
        command += [f"sparc.streaming.{program}", *map(str, arguments)]
        done = subprocess.run(
            command, input="".join(lines), capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()


@pytest.fixture(scope="module")
def java(jars: Path, tmp_path_factory) -> Java:
    return Java(jars, tmp_path_factory.mktemp("classes"))


@pytest.fixture(scope="module")
def verdicts(java: Java) -> Verdicts:
    """The reasons that `Click.java` gives, empty for a click."""

    def ask(records: list[Record]) -> list[str]:
        lines = [f"{r.timestamp} {_text(r.key)} {_text(r.value)}\n" for r in records]
        return java("ClickVerdicts", lines, NOW, AHEAD_MS)

    return ask


def _text(value: bytes | None) -> str:
    return "-" if value is None else f"={base64.b64encode(value).decode()}"


records = st.builds(
    Record,
    st.sampled_from([b"7", b"7", b"7", b"07", b"8", b"ada", b"ada", None]),
    # to orjson a number beyond a double is no JSON, to Jackson it is one that is no integer
    st.one_of(
        RAW.filter(lambda raw: b"1e400" not in raw),
        changed(CLICK),
        changed(NAMED),
        changed(NAMED),
        st.none(),
    ),
    TIMESTAMPS,
)


@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(log=st.lists(records, min_size=50, max_size=300))
def test_random_records_are_judged_alike(verdicts: Verdicts, log: list[Record]) -> None:
    said = [reason.split(":")[0] for reason in verdicts(log)]
    for record, field in zip(log, said, strict=True):
        expected = read(record, AHEAD_MS)
        assert field == ("" if isinstance(expected, Click) else expected), record


def test_every_kind_of_poison_has_its_reason_and_evolved_clicks_pass(verdicts: Verdicts) -> None:
    bad = poison(RECORDED - 1000)
    good = list(evolved(7, 8, RECORDED - 1000).values())
    assert verdicts([record for record, _ in bad.values()] + good) == [
        *(reason for _, reason in bad.values()),
        *("" for _ in good),
    ]


def numbers(java: Java, ids: list[str]) -> list[tuple[int, str] | None]:
    """What `Id.java` makes of texts: number and text, None for no id."""
    said = java("IdNumbers", [f"{_text(one.encode())}\n" for one in ids])
    found: list[tuple[int, str] | None] = []
    for line in said:
        number, _, text = line.partition(" ")
        found.append((int(number), base64.b64decode(text).decode()) if number else None)
    return found


def of_python(text: str) -> tuple[int, str] | None:
    try:
        return shop_id(text)
    except ValueError:
        return None


IDS = st.one_of(
    st.text(max_size=300),
    st.text("0123456789- \t\u00a0", max_size=22),
    st.integers(-(2**64), 2**64).map(str),
    st.uuids().map(str),
    st.builds("{}{}".format, st.text("é€😀", min_size=60, max_size=140), st.text(max_size=4)),
)


@settings(max_examples=5, deadline=None, phases=[Phase.generate])
@given(ids=st.lists(IDS, min_size=200, max_size=300))
def test_an_id_has_the_same_number_in_java_and_in_python(java: Java, ids: list[str]) -> None:
    assert numbers(java, ids) == list(map(of_python, ids))


def test_the_same_white_space_is_no_part_of_an_id(java: Java) -> None:
    lower = [chr(c) for c in range(0x10000) if not 0xD800 <= c < 0xE000]
    ids = [f"{c}x{c}y{c}" for c in lower]
    assert numbers(java, ids) == [shop_id(one) for one in ids]
    assert len({number for number, _ in map(shop_id, ids)}) == len(ids)


@pytest.mark.parametrize(
    ("event_time", "recorded", "says"),
    [
        (NOW + AHEAD_MS, NOW, ""),
        (NOW + AHEAD_MS + 1, NOW, "event_time: too far ahead of the record's timestamp"),
        (NOW + AHEAD_MS + 1, NOW + AHEAD_MS, "event_time: too far ahead of the clock"),
    ],
)
def test_ahead_of_the_record_and_of_the_clock_by_minutes_at_most(
    verdicts: Verdicts, event_time: int, recorded: int, says: str
) -> None:
    click = Click("e", 7, 8, event_time)
    assert verdicts([Record(b"7", click.to_bytes(), recorded)]) == [says]


def test_a_click_ahead_of_its_arrival_moves_the_watermark_no_further_than_that(java: Java) -> None:
    now = time.time_ns() // 1_000_000
    minute, hour = 60_000, 3_600_000

    def line(event_time: int, recorded: int, kind: str = "click") -> str:
        value = Click(f"{event_time}", 7, 8, event_time, kind).to_bytes().decode()
        return f"{recorded} 7 {value}\n"

    said = java(
        "Arrivals",
        [
            line(now - 3000, now - 3000),
            line(now + 2 * minute, now - 2000),  # a little fast: no further than its arrival
            line(now + 20 * hour, now - 1000),
            line(now + 20 * hour, now + 20 * hour),  # the clock of its record is wrong as well
            line((now - 1000) // 1000, now - 1000),
            line(now - 1500, now - 1000),  # nobody is late for all that
            line(now - 2000 - DELAY, now - 900),
            line(now + minute, now - 800, "heartbeat"),  # a clock and nothing else
        ],
        AHEAD_MS,
        DELAY,
    )
    assert said == [
        f"CLICK {now - 3000 - DELAY}",
        f"CLICK {now - 2000 - DELAY}",
        *[f"DEAD_LETTER {now - 2000 - DELAY}"] * 3,
        f"CLICK {now - 1500 - DELAY}",
        f"LATE {now - 1500 - DELAY}",
        f"HEARTBEAT {now + minute - DELAY}",
    ]


def test_the_replay_is_taken_at_its_word_where_its_times_look_like_seconds(java: Java) -> None:
    value = Click("e", 7, 8, 1_400_000_000).to_bytes().decode()
    line = f"{NOW} 7 {value}\n"
    assert java("Arrivals", [line], AHEAD_MS, DELAY) == ["DEAD_LETTER -1"]
    said = java("Arrivals", [line], AHEAD_MS, DELAY, POSITION)
    assert said == [f"CLICK {1_400_000_000 - DELAY}"]
