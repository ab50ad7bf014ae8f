"""The job's parser and `Click.from_bytes` take and refuse the same records, for the same field."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from deploy.flink_cluster import flink_home
from deploy.java import find_java
from streaming.events import Click
from tests.streaming.made_clicks import RECORDED, evolved, poison
from tests.streaming.oracle import Record, read
from tests.streaming.test_bounds import RAW, changed

AHEAD_MS = 300_000
NOW = RECORDED + 1000
CLICK = Click("e", 7, 8, RECORDED - 1000)
TIMESTAMPS = st.sampled_from([RECORDED, RECORDED - AHEAD_MS - 1000, RECORDED - AHEAD_MS - 1001])

Verdicts = Callable[[list[Record]], list[str]]


@pytest.fixture(scope="module")
def verdicts(jars: Path, tmp_path_factory) -> Verdicts:
    """The reasons that `Click.java` gives, empty for a click."""
    java, made = find_java(), tmp_path_factory.mktemp("classes")
    flink = next((flink_home() / "lib").glob("flink-dist-*.jar"))
    path = ":".join(map(str, [made, *(jars / "flink").glob("*.jar"), flink]))
    source = Path(__file__).with_name("ClickVerdicts.java")
    compiler = java.resolve().with_name("javac")
    if not compiler.is_file():
        pytest.skip("no JDK beside the Java runtime")
    subprocess.run([compiler, "-cp", path, "-d", made, source], check=True)

    def ask(records: list[Record]) -> list[str]:
        lines = [f"{r.timestamp} {_text(r.key)} {_text(r.value)}\n" for r in records]
        command = [java, "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", path]
        command += ["sparc.streaming.ClickVerdicts", str(NOW), str(AHEAD_MS)]
        done = subprocess.run(
            command, input="".join(lines), capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    return ask


def _text(value: bytes | None) -> str:
    return "-" if value is None else f"={base64.b64encode(value).decode()}"


records = st.builds(
    Record,
    st.sampled_from([b"7", b"7", b"7", b"07", b"8", None]),
    # to orjson a number beyond a double is no JSON, to Jackson it is one that is no integer
    st.one_of(
        RAW.filter(lambda raw: b"1e400" not in raw), changed(CLICK), changed(CLICK), st.none()
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
