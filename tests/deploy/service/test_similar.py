"""`POST /v1/similar` and `sparc similar`: items like an item, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy.service.test_service_limits import Serving
from tests.deploy.snapshot_maker import ITEMS, Shelf


@pytest.fixture
def serving(shelf: Shelf) -> Iterator[Serving]:
    one = Serving(shelf)
    yield one
    one.close()


def similar(serving: Serving, **body: Any) -> dict[str, Any]:
    answer = serving.http.post("/v1/similar", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_an_answer_shows_the_items_and_what_brought_each(serving: Serving) -> None:
    answer = similar(serving, item_id=8, k=20)
    assert (answer["version"], answer["known_user"], len(answer["items"])) == (2, None, 20)
    number = answer["items"][0]["item_id"]
    assert answer["items"][0]["title"] == f"Item {number} of kind {number % 7}"
    assert answer["items"][0]["external_id"] == f"B{number:09d}"
    assert 8 not in {item["item_id"] for item in answer["items"]}
    for item in answer["items"]:
        assert ("code" in item["sources"]) == (item["code"] == answer["code"])
        assert item["sources"]


def test_for_a_user_it_leaves_out_what_the_user_has_clicked(serving: Serving) -> None:
    history = serving.histories.get(3)
    assert history is not None
    answer = similar(serving, item_id=8, user_id=3, k=ITEMS)
    assert answer["known_user"] is True
    found = {item["item_id"] for item in answer["items"]}
    assert found == {*range(1, ITEMS + 1)} - {8, *history.items}
    given = similar(serving, item_id=8, history=history.items, history_times=history.times, k=ITEMS)
    assert given["items"] == answer["items"] and given["known_user"] is None
    seen = similar(serving, item_id=8, user_id=3, exclude_seen=False, k=ITEMS)
    assert len(seen["items"]) == ITEMS - 1
    nobody = similar(serving, item_id=8, user_id="nobody", k=5)
    assert nobody["known_user"] is False
    assert nobody["items"] == similar(serving, item_id=8, k=5)["items"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"item_id": 12_345}, 404, "item_id: 12345 is not listed in version 2"),
        ({"item_id": "never heard of"}, 404, "is not listed"),
        ({}, 422, "item_id"),
        ({"item_id": 1.5}, 422, "item_id"),
        ({"item_id": 8, "k": 501}, 422, "k"),
        ({"item_id": 8, "user_id": 1, "history": []}, 422, "user_id or history, not both"),
        ({"item_id": 8, "history_times": [1]}, 422, "history_times belongs to history"),
        ({"item_id": 8, "colour": "red"}, 422, "colour"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_in_words(
    serving: Serving, body: dict[str, Any], status: int, words: str
) -> None:
    answer = serving.http.post("/v1/similar", json=body)
    assert answer.status_code == status
    assert words in answer.json()["detail"]


def test_it_is_measured_as_every_route(serving: Serving) -> None:
    similar(serving, item_id=8)
    metrics = serving.http.get("/metrics").text
    assert 'sparc_service_request_seconds_count{route="/v1/similar",status="200"} 1.0' in metrics
    assert 'sparc_service_queries_total{history="none"} 1.0' in metrics
