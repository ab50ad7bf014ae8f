"""Records of `clicks`: good ones, and every kind of bad one that producers have found."""

from __future__ import annotations

import json
import random

from streaming.events import HEARTBEAT, Click
from tests.colliding import ONE, OTHER
from tests.streaming.oracle import Record

DELAY = 5000
"""The job's out-of-orderness in ms."""
RECORDED = 1_500_000_000_000
"""When the records were written, in ms: after the events of all logs here."""
AHEAD = RECORDED + 10 * 365 * 86_400_000
"""Ten years after that."""
NO_ID = "neither an integer nor a string"
NO_SUCH_TEXT = "not of 1 to 256 bytes"
HEADERS = (("origin", b"\x00\xff"),)


TEXTS = '"user_id":"\\u00a0ädä 1 ","item_id":"B\\ud83d\\ude00\\"x"'.encode()
"""Ids of schema version 2, with white space around one of them, an escape, and two halves."""


def click(user: int, item: int, when: int, **changes) -> Record:
    body = Click(changes.pop("event_id", f"{user}-{item}-{when}"), user, item, when, **changes)
    return Record(body.key(), body.to_bytes(), RECORDED, HEADERS)


def named(user: str, item: str, when: int, kind: str = "named") -> Record:
    """As another producer writes it: ids as the shop has them, the user's as the key."""
    body = {"event_id": f"{kind}-{user}-{item}-{when}", "user_id": user, "item_id": item}
    body |= {"event_time": when, "event_type": "click", "schema_version": 2}
    return Record(user.encode(), json.dumps(body).encode(), RECORDED, HEADERS)


def heartbeat(when: int) -> Record:
    return Record(b"0", Click("", 0, 0, when, HEARTBEAT).to_bytes(), RECORDED)


def poison(when: int) -> dict[str, tuple[Record, str]]:
    """Records that are no clicks, by what is wrong, each with the reason that the job gives."""
    value = click(7, 8, when).value or b""

    def with_value(changed: bytes | None, key: bytes | None = b"7") -> Record:
        return Record(key, changed, RECORDED, HEADERS)

    def swapped(old: bytes, new: bytes) -> Record:
        assert value.count(old) == 1
        return with_value(value.replace(old, new))

    def of_texts(old: bytes, new: bytes) -> Record:
        changed = swapped(old, new).value or b""
        return with_value(changed.replace(b'"schema_version":1', b'"schema_version":2'))

    event_id = b'"event_id":"7-8-%d"' % when
    event_time = b'"event_time":%d' % when
    clashing = (("reason", b"a producer's own"), ("offset", b""), ("empty", b""), *HEADERS)
    return {
        "bad UTF-8": (swapped(b"event_id", b"event_\xff"), "value: not UTF-8"),
        "truncated JSON": (with_value(value[:-5]), "value: not JSON"),
        "bytes": (with_value(b"\x00\x01\x02"), "value: not JSON"),
        "empty value": (with_value(b""), "value: not JSON"),
        "tombstone": (with_value(None), "value: missing"),
        "text behind the object": (with_value(value + b"x"), "value: not JSON"),
        "two objects": (with_value(value + value), "value: not JSON"),
        "an array": (with_value(b"[1, 2]"), "value: not a JSON object"),
        "null": (with_value(b"null"), "value: not a JSON object"),
        "null key": (with_value(value, None), "key: missing"),
        "another user's key": (with_value(value, b"8"), "key: not the user_id"),
        "a padded key": (with_value(value, b"07"), "key: not the user_id"),
        "NaN": (swapped(b'"item_id":8', b'"item_id":NaN'), "value: not JSON"),
        "infinite time": (swapped(event_time, b'"event_time":Infinity'), "value: not JSON"),
        "half a character": (
            swapped(b'"event_id":"', b'"event_id":"\\ud800'),
            "value: not JSON",
        ),
        "event_id removed": (swapped(event_id + b",", b""), "event_id: missing"),
        "user_id removed": (swapped(b'"user_id":7,', b""), "user_id: missing"),
        "item_id removed": (swapped(b'"item_id":8,', b""), "item_id: missing"),
        "event_time removed": (swapped(event_time + b",", b""), "event_time: missing"),
        "event_type removed": (swapped(b'"event_type":"click",', b""), "event_type: missing"),
        "schema_version removed": (
            swapped(b',"schema_version":1', b""),
            "schema_version: missing",
        ),
        "event_id a number": (swapped(event_id, b'"event_id":7'), "event_id: not a string"),
        "user_id a string": (
            swapped(b'"user_id":7', b'"user_id":"7"'),
            "user_id: a string, which needs schema_version 2",
        ),
        "user_id a fraction": (swapped(b'"user_id":7', b'"user_id":7.0'), f"user_id: {NO_ID}"),
        "user_id a truth": (swapped(b'"user_id":7', b'"user_id":true'), f"user_id: {NO_ID}"),
        "user_id empty": (of_texts(b'"user_id":7', b'"user_id":" "'), f"user_id: {NO_SUCH_TEXT}"),
        "a long user_id": (
            of_texts(b'"user_id":7', '"user_id":"{}"'.format("é" * 129).encode()),
            f"user_id: {NO_SUCH_TEXT}",
        ),
        "item_id null": (swapped(b'"item_id":8', b'"item_id":null'), f"item_id: {NO_ID}"),
        "item_id an object": (
            swapped(b'"item_id":8', b'"item_id":{"a":[8]}'),
            f"item_id: {NO_ID}",
        ),
        "item_id negative as a string": (
            of_texts(b'"item_id":8', b'"item_id":"-8"'),
            "item_id: negative",
        ),
        "another text's key": (
            with_value(of_texts(b'"user_id":7', b'"user_id":"ada"').value, b"ida"),
            "key: not the user_id",
        ),
        "item_id of 65 bits": (
            swapped(b'"item_id":8', b'"item_id":9223372036854775808'),
            "item_id: outside 64 bits",
        ),
        "event_time a date": (
            swapped(event_time, b'"event_time":"2014-01-01"'),
            "event_time: not an integer",
        ),
        "event_type a number": (
            swapped(b'"event_type":"click"', b'"event_type":3'),
            "event_type: not a string",
        ),
        "schema_version a string": (
            swapped(b'"schema_version":1', b'"schema_version":"1"'),
            "schema_version: not an integer",
        ),
        "item_id negative": (swapped(b'"item_id":8', b'"item_id":-8'), "item_id: negative"),
        "a long event_id": (
            swapped(event_id, b'"event_id":"' + b"e" * 1025 + b'"'),
            "event_id: longer than 1024 bytes",
        ),
        "a long event_type": (
            swapped(b'"event_type":"click"', '"event_type":"{}"'.format("é" * 600).encode()),
            "event_type: longer than 1024 bytes",
        ),
        "negative time": (click(7, 8, -1), "event_time: negative"),
        "seconds": (
            click(7, 8, RECORDED // 1000),
            "event_time: looks like seconds, milliseconds expected",
        ),
        "microseconds": (
            click(7, 8, RECORDED * 1000),
            "event_time: looks like microseconds, milliseconds expected",
        ),
        "nanoseconds": (
            click(7, 8, RECORDED * 10**6),
            "event_time: looks like nanoseconds, milliseconds expected",
        ),
        "the year 10000": (click(7, 8, 253_402_300_800_000), "event_time: beyond the year 9999"),
        "ten years ahead": (
            click(7, 8, AHEAD),
            "event_time: too far ahead of the record's timestamp",
        ),
        "a heartbeat ten years ahead": (
            heartbeat(AHEAD),
            "event_time: too far ahead of the record's timestamp",
        ),
        "2 MB": (
            with_value(b'{"pad":"' + b"x" * 2_000_000 + b'",' + value[1:]),
            "value: larger than 1048576 bytes",
        ),
        "2 MB of no JSON": (with_value(b"x" * 2_000_000), "value: larger than 1048576 bytes"),
        "headers with our names": (
            Record(b"7", b"{}", RECORDED, clashing),
            "event_id: missing",
        ),
    }


def evolved(user: int, item: int, when: int) -> dict[str, Record]:
    """Clicks of a producer that has moved on: they pass."""

    def value(kind: str) -> bytes:
        name = f'é\U0001f600"\\{kind}-{user}-{when}'
        return click(user, item, when, event_type="vu", event_id=name).value or b""

    key = b"%d" % user
    added = b'{ "z":{"user_id":[1,"a"]}, ' + value("added")[1:]
    fields = value("reordered")[1:-1].split(b",")
    reordered = b"{" + b" , ".join(reversed(fields)) + b"}\n"
    texts = value("texts").replace(b'"user_id":%d,"item_id":%d' % (user, item), TEXTS)
    texts = texts.replace(b'"schema_version":1', b'"schema_version":2')
    return {
        "ids that are texts": Record("ädä 1".encode(), texts, RECORDED, HEADERS),
        "a field added": Record(key, added, RECORDED, HEADERS),
        "fields in another order": Record(key, reordered, RECORDED, HEADERS),
    }


def disordered_log(rng: random.Random, events: int) -> list[Record]:
    """Disorder, ties, late ones, duplicates, poison, texts, strange but valid records."""
    log: list[Record] = []
    now = 1_000_000_000_000
    for _ in range(events):
        now += rng.choice([0, 0, 10, 400, 2500])
        kind = rng.random()
        user = rng.randint(-3, 12)
        when = now - rng.choice([0, 0, 300, 4000, 4999])
        if kind < 0.03:
            log.append(rng.choice(list(poison(now).values()))[0])
        elif kind < 0.08 and log:
            log.append(rng.choice(log[-200:]))  # again, poison too
        elif kind < 0.12:
            log.append(click(user, rng.randint(1, 99), max(0, now - rng.randint(5000, 60_000))))
        elif kind < 0.14:
            log.append(heartbeat(now))
        elif kind < 0.16:
            log.append(rng.choice(list(evolved(user, 5, when).values())))
        elif kind < 0.26:
            name = rng.choice(["ada", "b b", "Ä", "7", ONE, OTHER])  # these two have one number
            log.append(named(name, rng.choice(["B0", '"', "9"]), when))
        else:
            log.append(click(user, rng.randint(1, 99), when))
    return [*log, heartbeat(now + DELAY)]
