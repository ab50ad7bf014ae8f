"""What a shop may say, the records that it becomes, and when the clock of the clicks is told."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from deploy.ingest import item_changes, kafka_writer
from deploy.ingest.forgotten_users import ForgottenUsers
from deploy.ingest.item_changes import ItemChanges
from deploy.ingest.kafka_writer import KafkaAway, KafkaWriter, Pulse, RoomTaken
from deploy.ingest.records import ItemPatch, Record
from deploy.ingest.routes import router
from indexer.catalogue.property_reader import PropertyReader
from replay.identity import event_id
from streaming.events import FORGET, Click
from streaming.ids import numeric_id
from streaming.items import Item
from streaming.kafka_clients import KafkaConnection
from streaming.topics import Topics
from tests.colliding import NUMBER, ONE, OTHER
from tests.deploy.kept_records import KeptRecords
from tests.indexer.properties import tell

NOW = 1_700_000_000_000
NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture
def kept() -> KeptRecords:
    return KeptRecords()


@pytest.fixture
def forgotten(tmp_path: Path) -> ForgottenUsers:
    return ForgottenUsers(tmp_path)


@pytest.fixture
def http(kept: KeptRecords, forgotten: ForgottenUsers, tmp_path: Path, monkeypatch) -> TestClient:
    monkeypatch.setattr("deploy.ingest.routes._now_ms", lambda: NOW)
    app = FastAPI()
    log_time = lambda: kept.log_time_ms  # noqa: E731
    changes = ItemChanges(kept, Topics(), PropertyReader(tmp_path), lambda: kept.ends)
    app.include_router(router(kept, changes, Topics(), log_time, lambda *_: {}, forgotten))
    return TestClient(app)


def post(http: TestClient, *events: dict[str, Any], **headers: str) -> list[str]:
    answer = http.post("/v1/events", json={"events": events}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["accepted"] == len(events)
    return answer.json()["event_ids"]


def test_ids_are_those_of_a_replayed_log(http, kept):
    (name,) = post(http, {"user_id": "A39H", "item_id": "B00X", "event_time": NOW - 5000})
    click = Click.from_bytes(kept.records[0].value)
    assert (click.user_id, click.item_id) == (numeric_id("A39H"), numeric_id("B00X"))
    assert name == click.event_id == event_id("A39H", "B00X", NOW - 5000)
    assert (click.external_user_id, click.external_item_id) == ("A39H", "B00X")
    assert kept.records[0].topic == "clicks" and kept.records[0].key == click.key()
    post(http, {"user_id": 42, "item_id": " 7 ", "event_time": NOW - 5000})
    assert orjson.loads(kept.records[1].value)["schema_version"] == 1
    assert Click.from_bytes(kept.records[1].value).external_item_id == ""


def test_a_repetition_is_told_from_another_click(http):
    said = {"user_id": 1, "item_id": 2}
    assert post(http, said) != post(http, said)  # two clicks of one second
    timed = said | {"event_time": NOW}
    assert post(http, timed) == post(http, timed)
    keyed = [post(http, said, said, **{"Idempotency-Key": key}) for key in "aab"]
    assert keyed[0] == keyed[1] != keyed[2] and len(set(keyed[0])) == 2
    other = said | {"item_id": 3}
    assert post(http, other, said, **{"Idempotency-Key": "a"})[0] not in keyed[0]
    assert post(http, timed) == post(http, timed, **{"Idempotency-Key": "a"})
    assert post(http, said | {"event_id": "mine"}, **{"Idempotency-Key": "a"}) == ["mine"]


def test_items_keep_the_shops_own_id(http, kept):
    listed = [{"item_id": "ü-1", "title": "T", "category": "C"}, {"item_id": "12"}, {"item_id": 3}]
    assert http.post("/v1/items", json={"items": listed}).json() == {"accepted": 3}
    items = [Item.from_bytes(record.value) for record in kept.records]
    assert items[0] == Item(numeric_id("ü-1"), "T", "C", "ü-1", NOW)
    assert [one.item_id for one in items[1:]] == [12, 3]
    assert [one.external_id for one in items[1:]] == ["", ""]
    kept.records.clear()
    assert http.delete("/v1/items/ü-1").status_code == 200
    assert kept.records == [Record("items", b"%d" % numeric_id("ü-1"), None)]


def test_an_item_is_all_that_is_said_of_it(http, kept):
    said = {
        "item_id": 7,
        "state": "hidden",
        "available_from": NOW,
        "available_until": NOW + 5,
        "attributes": {"price": 3.5, "released": {"time": "2023-11-14T22:13:20Z"}, "sizes": ["S"]},
    }
    assert http.post("/v1/items", json={"items": [said]}).status_code == 200
    attributes = said["attributes"] | {"released": {"time": NOW}}
    assert Item.from_bytes(kept.records[0].value) == Item(
        7, "", "", "", NOW, "hidden", NOW, NOW + 5, attributes
    )


def test_a_change_keeps_the_other_fields_and_null_takes_one_back(http, kept, tmp_path):
    soap = Item(7, "Soap", "Bath", "x", 5, "hidden", None, 99, {"price": 3, "sizes": ["S"]})
    tell(tmp_path, {7: soap, 8: None})
    more = {"state": None, "title": "Better soap", "attributes": {"price": 4, "sizes": None}}
    assert http.patch("/v1/items/7", json=more).json() == {"accepted": 1}
    assert Item.from_bytes(kept.records[0].value) == replace(
        soap, state="listed", title="Better soap", attributes={"price": 4}
    )
    for item_id in ("8", "9", "nobody/knows?it"):
        answer = http.patch(f"/v1/items/{quote(item_id, safe='')}", json={"title": "x"})
        assert answer.status_code == 404 and "POST /v1/items" in answer.text
    assert http.patch("/v1/items/-3", json={}).status_code == 422
    for bad, field in (
        ({"available_from": 100_000}, "available_until 99 is not after"),
        ({"attributes": {f"n{n}": 1 for n in range(63)}}, "attributes holds 65"),
        ({"attributes": {"price": "dear"}}, "attributes.price is a string, and a number"),
        ({"attributes": {"category": None}}, "category"),
        ({"item_id": 9}, "item_id"),
    ):
        refused = http.patch("/v1/items/7", json=bad)
        assert refused.status_code == 422 and field in refused.text, refused.text
    assert len(kept.records) == 1


def test_of_an_item_no_more_is_taken_than_a_record_holds(http, kept, tmp_path):
    long = {f"a{n}": ["x" * 1000] * 64 for n in range(15)}  # less than a mebibyte, as a body
    tell(tmp_path, {7: Item(7, attributes=long)})
    more = {"attributes": {f"b{n}": ["x" * 1000] * 64 for n in range(2)}}
    answer = http.patch("/v1/items/7", json=more)
    assert answer.status_code == 422 and "item 7: all that is said of it" in answer.text
    both = {"item_id": "B00X", "attributes": long | more["attributes"]}
    answer = http.post("/v1/items", json={"items": [{"item_id": 1}, both]})
    assert answer.status_code == 422 and "item 'B00X': all that is said of it" in answer.text
    assert not kept.records


def test_a_date_before_1970_is_kept_by_a_change_of_something_else(http, kept, tmp_path):
    released = {"time": "1965-01-01T00:00:00Z"}
    item = {"item_id": 7, "attributes": {"released": released}}
    assert http.post("/v1/items", json={"items": [item]}).status_code == 200
    listed = Item.from_bytes(kept.records[0].value)
    tell(tmp_path, {7: listed})
    assert http.patch("/v1/items/7", json={"attributes": {"price": 2}}).status_code == 200
    changed = Item.from_bytes(kept.records[1].value)
    assert changed.attributes == {"released": {"time": -157_766_400_000}, "price": 2}


def test_a_change_waits_until_the_indexer_knows_what_was_said_before(
    http, kept, tmp_path, monkeypatch
):
    tell(tmp_path, {7: Item(7, "Soap")})  # position 1
    kept.ends = {0: 2}
    later = threading.Timer(0.3, lambda: tell(tmp_path, {7: Item(7, "Soft soap"), 8: None}))
    later.start()
    assert http.patch("/v1/items/7", json={"category": "Bath"}).status_code == 200
    assert Item.from_bytes(kept.records[0].value) == Item(7, "Soft soap", "Bath")
    kept.ends = {0: 3}
    monkeypatch.setattr(item_changes, "PATIENCE_S", 0.2)
    behind = http.patch("/v1/items/7", json={"category": "Bath"})
    assert behind.status_code == 503 and behind.headers["Retry-After"] == "2"
    assert "the indexer has not read" in behind.text and len(kept.records) == 1


def test_changes_of_one_item_that_come_together_are_both_made(kept, tmp_path):
    known = {7: Item(7, "Soap")}
    tell(tmp_path, known)

    async def write(some) -> None:
        await asyncio.sleep(0.05)  # as Kafka takes its time
        kept.records += some
        known.update((int(one.key), Item.from_bytes(one.value)) for one in some)
        tell(tmp_path, known)

    kept.write = write
    changes = ItemChanges(kept, Topics(), PropertyReader(tmp_path), lambda: {})

    async def play() -> None:
        await asyncio.gather(
            changes.change(7, ItemPatch(category="Bath")),
            changes.change(7, ItemPatch(attributes={"price": 3})),
            changes.list([Item(8), Item(7, "Gel", "Shower")]),
            changes.change(7, ItemPatch(attributes={"new": True})),
        )

    asyncio.run(play())
    first, second, _, _, last = (Item.from_bytes(one.value) for one in kept.records)
    assert first == Item(7, "Soap", "Bath")
    assert second == replace(first, attributes={"price": 3})
    assert last in (
        replace(second, attributes={"price": 3, "new": True}),
        Item(7, "Gel", "Shower", attributes={"new": True}),
    )


def test_an_item_with_the_number_of_another_is_refused_with_both_names(http, kept, tmp_path):
    tell(tmp_path, {NUMBER: Item(NUMBER, "Soap", external_id=ONE), 7: Item(7, external_id="SKU")})
    assert http.patch(f"/v1/items/{ONE}", json={"title": "Rose soap"}).status_code == 200
    posts = [
        http.post("/v1/items", json={"items": [{"item_id": ONE}, {"item_id": OTHER}]}),
        http.post("/v1/events", json={"events": [{"user_id": 1, "item_id": OTHER}]}),
        http.patch(f"/v1/items/{OTHER}", json={"title": "Comb"}),
        http.delete(f"/v1/items/{OTHER}"),
    ]
    for answer, place in zip(posts, ("items.1.", "events.0.", "", ""), strict=True):
        says = f"{place}item_id {OTHER!r} has the number of another item, {ONE!r}"
        assert (answer.status_code, says in answer.text) == (422, True), answer.text
    assert len(kept.records) == 1
    twice = [{"user_id": 1, "item_id": name} for name in ("a", ONE, "b", NUMBER, 7)]
    post(http, *twice)
    assert http.delete(f"/v1/items/{NUMBER}").status_code == 200


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"state": "gone"}, "state"),
        ({"state": None}, "state"),
        ({"available_from": 5.5}, "available_from"),
        ({"available_from": NOW, "available_until": NOW}, "available_until"),
        ({"attributes": {"price": None}}, "attributes.price"),
        ({"attributes": {"price": {"gte": 3}}}, "attributes.price"),
        ({"attributes": {"sizes": ["S", 3]}}, "attributes.sizes.1"),
        ({"attributes": {"category": "x"}}, "attributes.category"),
        ({"attributes": ["price"]}, "attributes"),
        ({"attributes": {"known": "text"}}, "items.0.attributes.known is a string, and a number"),
    ],
)
def test_one_bad_item_is_named_and_none_of_the_request_is_taken(http, kept, tmp_path, more, field):
    tell(tmp_path, {7: Item(7, attributes={"known": 1})})
    http.patch("/v1/items/9", json={})  # looks at what is told
    answer = http.post("/v1/items", json={"items": [{"item_id": 1} | more, {"item_id": 2}]})
    assert answer.status_code == 422 and field in answer.text and not kept.records, answer.text


def test_lines_are_as_good_as_a_list(http, kept):
    lines = b'{"user_id": 1, "item_id": 2}\n\n  {"user_id": "b", "item_id": "c"}\r\n'
    answer = http.post("/v1/events", content=lines, headers=NDJSON)
    assert answer.json()["accepted"] == 2 and len(kept.records) == 2
    broken = http.post("/v1/events", content=lines + b"{", headers=NDJSON)
    assert broken.status_code == 422 and "line 4 is not JSON" in broken.text
    assert len(kept.records) == 2


@pytest.mark.parametrize(
    ("event", "field"),
    [
        ({"item_id": 1}, "user_id"),
        ({"user_id": 1, "item_id": -1}, "item_id"),
        ({"user_id": 2**63, "item_id": 1}, "user_id"),
        ({"user_id": True, "item_id": 1}, "user_id"),
        ({"user_id": " ", "item_id": 1}, "user_id"),
        ({"user_id": "é" * 129, "item_id": 1}, "user_id"),
        ({"user_id": 1, "item_id": "-8"}, "item_id"),
        ({"user_id": 1, "item_id": 1.5}, "item_id"),
        ({"user_id": 1, "item_id": 1, "event_time": NOW // 1000}, "event_time"),
        ({"user_id": 1, "item_id": 1, "event_time": NOW + 3_600_000}, "event_time"),
        ({"user_id": 1, "item_id": 1, "event_time": "now"}, "event_time"),
        ({"user_id": 1, "item_id": 1, "event_type": "heartbeat"}, "event_type"),
        ({"user_id": 1, "item_id": 1, "event_id": ""}, "event_id"),
        ({"user_id": 1, "item_id": 1, "event_id": "é" * 513}, "event_id"),
        ({"user_id": 1, "item_id": 1, "price": 2}, "price"),
    ],
)
def test_one_bad_click_is_named_and_none_of_the_request_is_taken(http, kept, event, field):
    good = {"user_id": 1, "item_id": 1}
    answer = http.post("/v1/events", json={"events": [good, event, good]})
    assert answer.status_code == 422 and field in answer.text and not kept.records


@pytest.mark.parametrize("body", [{}, {"events": []}, {"events": [{}] * 1001}, [], {"clicks": []}])
def test_no_request_of_another_form_is_taken(http, kept, body):
    assert http.post("/v1/events", json=body).status_code == 422 and not kept.records


def test_who_cannot_be_served_is_told_when_to_come_again(http, kept):
    for error, status in ((RoomTaken(), 429), (KafkaAway(), 503)):
        kept.error = error
        answer = http.post("/v1/events", json={"events": [{"user_id": 1, "item_id": 1}]})
        assert answer.status_code == status and int(answer.headers["Retry-After"]) > 0


def test_there_is_room_for_so_many_and_what_is_given_up_leaves_it(tmp_path, monkeypatch):
    writer = KafkaWriter(KafkaConnection("127.0.0.1:1"), tmp_path / "producer", "clicks", 5000)
    monkeypatch.setattr(kafka_writer, "PATIENCE_S", 0.1)
    record = Record("clicks", b"1", Click("e", 1, 1, NOW).to_bytes())

    async def play() -> None:
        waiting = asyncio.create_task(writer.write([record] * (kafka_writer.ROOM - 1)))
        await asyncio.sleep(0)
        with pytest.raises(RoomTaken):
            await writer.write([record] * 2)
        with pytest.raises(KafkaAway):
            await waiting
        assert writer._next() == []  # nobody waits for it any more
        with pytest.raises(KafkaAway):
            await writer.write([record] * 2)

    asyncio.run(play())


def test_a_click_of_now_does_not_make_a_log_late_that_is_being_replayed(http, kept):
    said = {"user_id": 1, "item_id": 1}
    kept.log_time_ms = NOW - 10**11
    refused = http.post("/v1/events", json={"events": [said]})
    assert refused.status_code == 409 and "2020-09-13" in refused.text and not kept.records
    post(http, said | {"event_time": NOW - 10**11 + 5})
    assert http.post("/v1/items", json={"items": [{"item_id": 1}]}).status_code == 200
    kept.log_time_ms = None
    post(http, said)


class Beats:
    """A pulse at a clock that both of its kinds follow."""

    def __init__(self) -> None:
        self.now_ms = NOW
        self.pulse = Pulse("clicks", 5000, lambda: self.now_ms / 1000)

    def click(self, time_ms: int) -> None:
        record = Record("clicks", b"1", Click("e", 1, 1, time_ms).to_bytes())
        self.pulse.see([record], self.now_ms)

    def beat(self, after_ms: int = 0, stored: bool = True) -> list[tuple[int | None, int]]:
        """Partition and time of what is told so much later."""
        self.now_ms += after_ms
        time_ms = self.pulse.due(self.now_ms)
        if time_ms is None:
            return []
        found = self.pulse.records(time_ms, {1, 0})
        if stored:
            self.pulse.told(time_ms)
        return [(one.partition, Click.from_bytes(one.value).event_time - NOW) for one in found]


def test_partitions_are_told_the_newest_click_and_at_last_that_it_has_passed():
    one = Beats()
    assert one.beat() == []
    one.click(NOW - 100)
    assert one.beat() == [(0, -100), (1, -100)] and one.beat(900) == []
    one.click(NOW + 900)
    assert one.beat(100) == [(0, 900), (1, 900)]
    assert one.beat(4900) == [] and one.beat(1) == [(0, 5901), (1, 5901)]
    assert one.beat(99_000) == [] and one.pulse.last() is None
    one.click(one.now_ms)
    assert one.pulse.last() == one.now_ms + 5001  # at a stop


def test_no_partition_is_told_a_time_that_has_not_come():
    one = Beats()
    one.click(NOW + 59_000)
    assert one.beat() == [(0, 0), (1, 0)]
    one.click(NOW + 70)
    assert one.beat(5001) == [(0, 5001), (1, 5001)]


def test_what_kafka_did_not_take_is_told_again():
    one = Beats()
    one.click(NOW)
    assert one.beat(5001, stored=False) == one.beat(1000) == [(0, 5001), (1, 5001)]
    assert one.beat(1000) == []


def test_a_clock_that_is_put_back_does_not_end_the_beat():
    one = Beats()
    one.click(NOW)
    one.beat(5001)
    back = one.now_ms - 3_600_000
    pulse = one.pulse
    pulse.see([Record("clicks", b"1", Click("e", 1, 1, back).to_bytes())], back)
    one.now_ms += 2000  # no clock goes back by which beats are paced
    assert pulse.due(back + 5001) == back + 5001


def test_of_a_log_nobody_says_that_its_last_click_has_passed():
    one = Beats()
    one.click(NOW - 3_600_000)
    assert one.beat() == [(0, -3_600_000), (1, -3_600_000)]
    assert one.beat(100_000) == [] and one.pulse.last() is None


def test_a_user_is_forgotten_by_a_record_among_the_clicks_and_a_note(http, kept, forgotten):
    assert forgotten.asked(numeric_id("ada")) is None
    answer = http.delete("/v1/users/ada")
    assert answer.status_code == 200, answer.text
    (record,) = kept.records
    click = Click.from_bytes(record.value)
    assert (record.topic, record.key) == ("clicks", click.key())
    assert (click.user_id, click.event_type) == (numeric_id("ada"), FORGET)
    assert forgotten.asked(click.user_id) == click.event_id == answer.json()["event_id"]
    again = http.delete("/v1/users/ada").json()["event_id"]
    assert forgotten.asked(click.user_id) == again != click.event_id
    assert list(forgotten.users()) == [click.user_id]
    for wrong in ("/v1/users/", "/v1/users/%20", "/v1/users/" + "x" * 300):
        assert http.delete(wrong).status_code in (404, 422)
    kept.log_time_ms = 1  # of a replay: who is to be forgotten does not wait for its end
    assert http.delete("/v1/users/-3").status_code == 200
    assert len(kept.records) == 3


def test_a_request_to_forget_is_no_clock_and_no_event_of_a_shop(http):
    said = {"user_id": 1, "item_id": 2, "event_type": FORGET}
    assert http.post("/v1/events", json={"events": [said]}).status_code == 422
    pulse = Pulse("clicks", 5000, lambda: 100.0)
    click = Click("f", 1, 0, NOW, FORGET)
    pulse.see([Record("clicks", click.key(), click.to_bytes())], NOW)
    assert pulse.due(NOW) is None


def test_notes_go_when_the_topics_hold_nothing_of_before(tmp_path):
    click = Click("f", 1, 0, NOW, FORGET)
    ForgottenUsers(tmp_path).note(click)
    ForgottenUsers(tmp_path).drop_old()
    ForgottenUsers(tmp_path, 3600).drop_old()
    assert ForgottenUsers(tmp_path).asked(1) == "f"
    ForgottenUsers(tmp_path, -1).drop_old()
    assert ForgottenUsers(tmp_path).asked(1) is None
