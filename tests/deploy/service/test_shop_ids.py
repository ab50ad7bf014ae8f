"""Ids at the service's edges: numbers and texts in, the shop's own ids out, nothing rounded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from deploy import settings as configuration
from deploy.commands import client, retrieve
from streaming.events import UserSequence
from streaming.ids import numeric_id
from tests.colliding import NUMBER, ONE, OTHER
from tests.deploy.service.test_service_limits import Serving
from tests.deploy.snapshot_maker import ITEMS, START_MS, Shelf

SHOP = "A39HTATAQ9V7YF"
NEVER = "sku/ü 1"
"""An item that was clicked and never listed."""
USERS = {SHOP: numeric_id(SHOP), "7": 7, str(2**63 - 1): 2**63 - 1, "a/b ü": numeric_id("a/b ü")}


def sequences() -> list[UserSequence]:
    """Two clicks of each user."""
    found = []
    for at, (text, user) in enumerate([*USERS.items(), ("-7", -7)]):
        known = "" if text == str(user) else text
        first, second = 1 + at, 9 + at
        now = START_MS + at
        found.append(UserSequence(f"{at}-0", user, now, 1, [], [], first, known))
        found.append(UserSequence(f"{at}-1", user, now + 9, 2, [first], [now], second, known))
    found.append(UserSequence("n", 99, START_MS, 1, [], [], numeric_id(NEVER), "", NEVER))
    found.append(UserSequence("one", 98, START_MS, 1, [], [], NUMBER, "", ONE))
    found.append(UserSequence("other", 97, START_MS, 1, [], [], NUMBER, "", OTHER))
    return found


@pytest.fixture
def serving(shelf: Shelf) -> Iterator[Serving]:
    one = Serving(shelf, sequences=sequences())
    yield one
    one.close()


def ids_in(value: Any) -> list[Any]:
    """Every id in an answer."""
    if isinstance(value, dict):
        own = [v for k, v in value.items() if k in ("user_id", "item_id")]
        return own + [one for v in value.values() for one in ids_in(v)]
    return [one for v in value for one in ids_in(v)] if isinstance(value, list) else []


@pytest.mark.parametrize("user", [*USERS, "-7"])
def test_a_user_is_known_by_the_shops_id_and_by_its_number(serving: Serving, user: str) -> None:
    number = numeric_id(user)
    answers = [
        serving.http.post("/v1/retrieve", json={"user_id": given, "k": 5}).json()
        for given in (user, number, str(number))
    ]
    assert [one["known_user"] for one in answers] == [True] * 3
    assert answers[0]["items"] == answers[1]["items"] == answers[2]["items"]
    batch = {"queries": [{"user_id": user}, {"user_id": number}]}
    found = serving.http.post("/v1/retrieve/batch", json=batch).json()["answers"]
    assert [one["known_user"] for one in found] == [True] * 2


def test_a_history_may_hold_texts_and_numbers(serving: Serving) -> None:
    asked = [
        serving.http.post("/v1/retrieve", json={"history": history, "k": 9, "now_ms": START_MS})
        for history in ([1, 8, numeric_id("B0X")], ["1", "8", "B0X"])
    ]
    assert [one.status_code for one in asked] == [200, 200]
    assert asked[0].json()["items"] == asked[1].json()["items"]


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("", "user_id: is 0 bytes long, an id has 1 to 256"),
        ("é" * 129, "user_id: is 258 bytes long, an id has 1 to 256"),
        (1.5, "user_id: Input should be a valid integer"),
        (True, "user_id: Input should be a valid integer"),
        (2**63, "user_id: Input should be less than"),
    ],
)
def test_what_is_no_id_is_refused_with_the_field(serving: Serving, user: Any, words: str) -> None:
    answer = serving.http.post("/v1/retrieve", json={"user_id": user})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(words), answer.text
    assert len(answer.json()["detail"]) < 300


def test_programs_get_numbers_as_ever(serving: Serving) -> None:
    answer = serving.http.post("/v1/retrieve", json={"user_id": 7}).json()
    assert {type(item["item_id"]) for item in answer["items"]} == {int}
    assert all(item["external_id"] == f"B{item['item_id']:09d}" for item in answer["items"])


@pytest.mark.parametrize(
    "path",
    [
        "/v1/users",
        f"/v1/users/{SHOP}/interests",
        "/v1/users/-7/interests",
        "/v1/codes/0/items?limit=200",
        f"/v1/compare?a=1&b=2&user_id={SHOP}",
    ],
)
def test_what_the_page_reads_holds_ids_as_text(serving: Serving, path: str) -> None:
    found = ids_in(serving.http.get(path).json())
    assert found
    assert {type(one) for one in found} == {str}


def test_an_item_that_was_only_clicked_is_named_as_it_was_clicked(serving: Serving) -> None:
    for user, text in ((99, NEVER), (98, ONE), (97, ONE)):
        why = serving.http.post("/v1/explain", json={"user_id": user, "k": 5}).json()
        assert [click["external_id"] for click in why["history"]] == [text]
        steps = serving.http.get(f"/v1/users/{user}/interests").json()["steps"]
        assert steps[-1]["item"]["external_id"] == text
    given = serving.http.post("/v1/explain", json={"history": [NEVER, 7, 12_345]}).json()
    assert [click["external_id"] for click in given["history"]] == [NEVER, "B000000007", "12345"]
    assert serving.histories.collisions == 1  # two texts of one number: the first one's stays
    assert "sparc_service_item_id_collisions_total 1.0" in serving.http.get("/metrics").text


def test_every_recent_user_is_known_to_the_page(serving: Serving) -> None:
    listed = serving.http.get("/v1/users").json()["users"]
    # as a browser reads them: every number is a double
    listed = json.loads(json.dumps(listed), parse_int=float)
    assert len(listed) == len(USERS) + 1
    assert {one["user_id"] for one in listed} == {*USERS, "-7"}
    for one in listed:
        answer = serving.http.get(f"/v1/users/{one['user_id']}/interests").json()
        assert (answer["known"], answer["user_id"]) == (True, one["user_id"])
    for user in USERS:
        from urllib.parse import quote

        answer = serving.http.get(f"/v1/users/{quote(user, safe='')}/interests")
        assert answer.status_code == 200, answer.text
        assert answer.json()["known"]


def test_the_command_asks_with_the_shops_ids_and_shows_them(
    serving: Serving, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def post(method: str, address: str, json: Any, **_: Any) -> Any:
        return serving.http.post("/v1/retrieve", json=json)

    monkeypatch.setattr(client.httpx, "request", post)
    settings = configuration.load(None, tmp_path, written=False)
    answer = retrieve.answer_of(settings, SHOP, None, 5, None)
    assert answer["known_user"]
    same = retrieve.answer_of(settings, str(USERS[SHOP]), None, 5, None)
    assert same["items"] == answer["items"]
    retrieve.show_answer(answer)
    shown = capsys.readouterr().out
    for item in answer["items"]:
        assert item["external_id"] in shown
    for history in ("1, 8,B0X", '[1, "8", "a,b"]'):
        seen = retrieve.answer_of(settings, None, history, ITEMS, None)
        assert not {1, 8} & {item["item_id"] for item in seen["items"]}
    with pytest.raises(ValueError, match="no list in JSON"):
        retrieve.answer_of(settings, None, "[1, 8", ITEMS, None)
