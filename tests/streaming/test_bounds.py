"""One rule for each topic: whatever a record holds, every reader takes it or refuses it alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.monitoring.arrivals import Arrivals
from deploy.service.popularity_baseline import PopularityBaseline
from deploy.service.user_histories import HistoryRecord, UserHistories
from indexer.indexing.listing import Announced
from model.training.micro_batch import ITEMS, SEQUENCES
from streaming.bounds import LATEST_MS, LONGEST_TEXT, EventError, in_milliseconds
from streaming.events import Click, UserSequence, parse_sequence
from streaming.ids import numeric_id
from streaming.items import Item, Withdrawal, announcement
from streaming.kafka_clients import KafkaConnection
from streaming.poison import parse
from streaming.topics import Topics
from tests.indexer.driving import catch_up, running
from tests.indexer.stand_in import StandIn
from tests.model.training.in_memory import RecordedSource

NOW = 1_700_000_000_000
ITEM = Item(7, "a title", "a > category", "B7", NOW, "hidden", 1, NOW)
SEQUENCE = UserSequence("e", 3, NOW, 2, [5], [NOW - 1], 7)

NUMBERS = st.one_of(
    st.integers(-(2**66), 2**66),
    st.sampled_from([-(2**63) - 1, -1, 0, 2**63 - 1, 2**63, 2**64, 10**30]),
    st.sampled_from([1_700_000_000, NOW, NOW * 1000, NOW * 10**6, LATEST_MS, LATEST_MS + 1]),
)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["\x00", "é" * LONGEST_TEXT, "x" * (LONGEST_TEXT + 1), "x" * LONGEST_TEXT]),
    st.just("<script>alert(1)</script>"),
)
SCALARS = st.one_of(
    NUMBERS, TEXTS, st.none(), st.booleans(), st.floats(allow_nan=False), st.just([[[]]])
)
VALUES = st.one_of(SCALARS, st.lists(NUMBERS, max_size=60), st.dictionaries(TEXTS, SCALARS))
RAW = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"",
            b"null",
            b"[]",
            b'{"item_id":NaN}',
            b'{"item_id":1e400,"listed_at":1}',
            b'{"item_id":7,"listed_at":1,"title":"\\ud800"}',
            b'{"item_id":"x","item_id":7,"listed_at":1}',
            b'{"a":' * 5000 + b"1" + b"}" * 5000,
            b'{"item_id":7,"listed_at":1,"title":"' + b"x" * 2_000_000 + b'"}',
            b'{"item_id":' + b"9" * 100_000 + b',"listed_at":1}',
            b"\xff\xfe{}",
        ]
    ),
)


@st.composite
def changed(draw: st.DrawFn, of: Any) -> bytes:
    """A good record with some fields removed or retyped, as JSON; numbers of any size."""
    body = orjson.loads(of.to_bytes())
    for name in draw(st.lists(st.sampled_from(sorted(body)), max_size=3, unique=True)):
        if draw(st.booleans()):
            body[name] = draw(VALUES)
        else:
            del body[name]
    fields = [f"{orjson.dumps(n).decode()}:{_json(v)}" for n, v in body.items()]
    return ("{" + ",".join(fields) + "}").encode()


def _json(value: Any) -> str:
    """As `orjson.dumps`, with integers of any length."""
    if type(value) is int:
        return str(value)
    if isinstance(value, list):
        return f"[{','.join(map(_json, value))}]"
    if isinstance(value, dict):
        return (
            "{" + ",".join(f"{orjson.dumps(k).decode()}:{_json(v)}" for k, v in value.items()) + "}"
        )
    return orjson.dumps(value).decode()


KEYS = st.sampled_from([b"7", b"07", b"B7", b"-7", b"", b"9" * 300, None, b"\xff"])
HOSTILE_ITEMS = st.tuples(KEYS, st.one_of(RAW, changed(ITEM), st.none(), st.just(ITEM.to_bytes())))
HOSTILE_SEQUENCES = st.one_of(RAW, changed(SEQUENCE), st.none())


def verdict(of: Any) -> Any:
    try:
        return of()
    except EventError as error:
        assert len(str(error)) < 400, "a refusal is one line"
        return None


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(HOSTILE_ITEMS, max_size=8))
def test_indexer_trainer_and_freshness_agree_on_every_record_of_items(tmp_path_factory, records):
    data_dir: Path = tmp_path_factory.mktemp("items")
    said = [verdict(lambda k=k, v=v: announcement(k, v)) for k, v in records]
    listed = {7: ITEM} | {one.item_id: one for one in said if isinstance(one, Item)}
    model = StandIn.make(20)
    aside: list[tuple[Announced, str]] = []
    with running(data_dir, keep_aside=aside.extend) as indexer:
        model.hand_over(data_dir, 1)
        catch_up(indexer)
        batch = [Announced(0, n, value, key) for n, (key, value) in enumerate(records)]
        indexer.listen(batch, {0: len(batch)})
        indexer.append_waiting()
        good = Item(900_000, "good", listed_at=NOW)
        end = len(batch)
        indexer.listen([Announced(0, end, good.to_bytes(), good.key())], {0: end + 1})
        indexer.append_waiting()
        assert [(one.key, one.value) for one, _ in aside] == [
            record for record, one in zip(records, said, strict=True) if one is None
        ]
        assert indexer.status().items_refused == len(aside)
        model.moved(0.1).hand_over(data_dir, 2)
        catch_up(indexer)
        assert indexer.status().version == 2
        assert indexer.status().handovers_refused == 0
        last = {one.item_id: one for one in said if one is not None}
        for item_id, one in last.items():
            there = indexer.store.listed(item_id)
            assert (there is None) == isinstance(one, Withdrawal)
            assert there is None or there.item == listed[item_id]
    with running(data_dir) as indexer:  # and nothing of it ends a start
        assert indexer.status().items_refused == len(aside)
        assert indexer.store.listed(900_000) is not None
    place = {"topic": ITEMS, "partition": 0, "offset": 0}
    assert [parse(announcement, k, v, place) for k, v in records] == said
    heard: list[int] = []
    hears = SimpleNamespace(
        listed=lambda item, _: heard.append(item), withdrawn=lambda item, _: heard.append(item)
    )
    arrivals = Arrivals(hears, Topics(), KafkaConnection(""))  # type: ignore[arg-type]
    for key, value in records:
        arrivals._tell("items", SimpleNamespace(key=key, value=value, timestamp=0))
    assert heard == [
        one.item_id
        for one in said
        if isinstance(one, Withdrawal)
        or (one and (one.state == "hidden" or one.available_from == one.available_until))
    ]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(HOSTILE_SEQUENCES, max_size=8))
def test_trainer_histories_and_popularity_agree_on_every_sequence(tmp_path_factory, values):
    said = [verdict(lambda v=v: UserSequence.from_bytes(v)) for v in values]
    taken = [one for one in said if one is not None]
    popularity = PopularityBaseline(window=10)
    histories = UserHistories(tmp_path_factory.mktemp("histories"), popularity.add)
    records = [HistoryRecord("s", 0, n, value) for n, value in enumerate(values)]
    assert histories.store(records, {("s", 0): len(records)}) == len(taken)
    assert histories.poisoned == len(values) - len(taken)
    for one in taken:
        assert histories.get(one.user_id) is not None
    histories.close()
    assert set(popularity.best(50)) == {one.target for one in taken}
    source = RecordedSource([[v for v in values if v is not None]])
    polled = [record.value for record in source.poll(()).sequences[0]]
    assert polled == [one for v, one in zip(values, said, strict=True) if v is not None]
    place = {"topic": SEQUENCES, "partition": 0, "offset": 0}
    assert [parse(parse_sequence, None, v, place) for v in values] == said


@pytest.mark.parametrize(
    ("time", "says"),
    [
        (1_400_000_000, "looks like seconds, milliseconds expected"),
        (1_400_000_000_000_000, "looks like microseconds, milliseconds expected"),
        (1_400_000_000_000_000_000, "looks like nanoseconds, milliseconds expected"),
        (LATEST_MS + 1, "beyond the year 9999"),
        (-1, "negative"),
    ],
)
def test_a_time_in_another_unit_is_refused_by_name(time, says):
    with pytest.raises(EventError, match=says):
        in_milliseconds("event_time", time)
    if says.startswith("looks like seconds"):  # as those of a log that counts its events
        assert Click.from_bytes(Click("e", 1, 2, time).to_bytes()).event_time == time
        return
    for record in (Click("e", 1, 2, time), dataclasses.replace(SEQUENCE, event_time=time)):
        with pytest.raises(EventError, match=f"event_time .*{says}"):
            type(record).from_bytes(record.to_bytes())
    with pytest.raises(EventError, match=f"listed_at .*{says}"):
        Item.from_bytes(Item(1, listed_at=time).to_bytes())


@pytest.mark.parametrize("time", [0, 86_400_000, 7 * 86_400_000, 48 * 86_400_000, NOW, LATEST_MS])
def test_times_of_1970_to_9999_in_milliseconds_pass(time):
    assert in_milliseconds("event_time", time) == time


@pytest.mark.parametrize("key", [None, b"", b"-1", b"x" * 257, b"\xff", b"7 ", b" "])
def test_a_tombstone_without_an_item_id_as_its_key_withdraws_nothing(key):
    with pytest.raises(EventError, match="key"):
        announcement(key, None)
    assert announcement(b"7", None) == Withdrawal(7)
    assert announcement(b"07", None) == Withdrawal(numeric_id("07"), None, "07")


def test_a_listing_says_itself_which_item_it_lists():
    assert announcement(b"8", ITEM.to_bytes()) == announcement(None, ITEM.to_bytes()) == ITEM
