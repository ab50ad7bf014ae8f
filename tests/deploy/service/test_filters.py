"""Filters, `exclude` and `include_only` over HTTP: what answers, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from deploy.service.app import create_app
from deploy.service.config import ServiceConfig
from streaming.items import Item
from tests.deploy.service.test_service import Running, know
from tests.deploy.snapshot_maker import ITEMS, START_MS, Shelf, items
from tests.indexer.properties import tell

ADDRESS = "http://127.0.0.1"
CHEAP = {"must": [{"key": "price", "range": {"lt": 10}}]}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, made_snapshots: Any) -> Iterator[Running]:
    """A service whose items cost what their number is, and whose odd ones are red."""
    one = Running(Shelf(tmp_path_factory.mktemp("filters"), made_snapshots))
    told: dict[int, Item | None] = {}
    for item in items():
        attributes: dict[str, Any] = {"price": item.item_id}
        if item.item_id % 2:
            attributes["color"] = "red"
        told[item.item_id] = Item(
            item.item_id,
            item.title,
            item.category,
            item.external_id,
            item.listed_at,
            attributes=attributes,
        )
    tell(one.data_dir, told)
    one.http = TestClient(create_app(one._service, ServiceConfig().body_limit_bytes), ADDRESS)
    one.serve(1)
    yield one
    one.close()


def ids(running: Running, path: str = "/v1/retrieve", **body: Any) -> list[int]:
    question = {"history": [], "k": ITEMS, **body}
    answer = running.http.post(path, json=question)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return sorted(item["item_id"] for item in found.get("answer", found)["items"])


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"filter": CHEAP}, range(1, 10)),
        (
            {"filter": CHEAP | {"must_not": {"key": "color", "match": {"value": "red"}}}},
            [2, 4, 6, 8],
        ),
        ({"filter": {"must": {"key": "category", "match": {"value": "kind 3"}}}}, range(3, 61, 7)),
        ({"filter": {"must": {"is_empty": {"key": "color"}}}, "exclude": [2, 4]}, range(6, 61, 2)),
        ({"include_only": [5, "7", 8, 10**12], "exclude": ["B0X", 8]}, [5, 7]),
        ({"include_only": []}, []),
        ({"include_only": [5, 20], "filter": CHEAP}, [5]),
        ({"filter": CHEAP, "history": [1, 2]}, range(3, 10)),
        ({"filter": CHEAP, "history": [1, 2], "exclude_seen": False}, range(1, 10)),
        ({"filter": {}}, range(1, ITEMS + 1)),
    ],
)
def test_only_what_passes_answers_and_all_of_it(
    running: Running, asked: Any, expected: Any
) -> None:
    for path in ("/v1/retrieve", "/v1/explain"):
        assert ids(running, path, **asked) == list(expected)


def test_an_answer_among_many_is_full(running: Running) -> None:
    found = running.retrieve(history=[], k=5, filter=CHEAP, codes=1)
    assert len(found["items"]) == 5


def test_queries_of_a_batch_have_filters_of_their_own(running: Running) -> None:
    queries = [
        {"history": [], "filter": CHEAP},
        {"history": [], "k": ITEMS},
        {"history": [], "include_only": [9]},
        {"history": [3], "filter": CHEAP},
    ]
    answer = running.http.post("/v1/retrieve/batch", json={"queries": queries})
    assert [len(one["items"]) for one in answer.json()["answers"]] == [9, ITEMS, 1, 8]


def test_items_like_an_item_are_filtered_too(running: Running) -> None:
    found = running.http.post("/v1/similar", json={"item_id": 30, "filter": CHEAP, "exclude": [4]})
    assert sorted(one["item_id"] for one in found.json()["items"]) == [1, 2, 3, 5, 6, 7, 8, 9]


def test_a_known_user_is_answered_among_what_passes(running: Running) -> None:
    seen = know(running, 3)
    left = [item for item in range(1, 10) if item not in seen]
    assert ids(running, history=None, user_id=3, filter=CHEAP) == left


def deep(levels: int) -> dict[str, Any]:
    return {"must": [deep(levels - 1)]} if levels else {}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"filter": {"most": []}}, "filter: 'most' is unknown"),
        (
            {"filter": {"must": [{"key": "size", "match": {"value": 1}}]}},
            "filter.must.0.key: no item has an attribute 'size'; they have category, color, price",
        ),
        (
            {"filter": {"must": [{"key": "price", "range": {"gte": "x"}}]}},
            "filter.must.0.range.gte is 'x', not a number",
        ),
        ({"filter": deep(10)}, "more than 8 deep"),
        ({"filter": {"must": {"key": "\ud800", "match": {"value": 1}}}}, "filter.must.key"),
        ({"filter": [1]}, "filter: Input should be a valid dictionary"),
        ({"include_only": list(range(10_001))}, "include_only: List should have at most 10000"),
        ({"exclude": list(range(10_001))}, "exclude: List should have at most 10000"),
        ({"include_only": ["x" * 300]}, "include_only.0"),
    ],
)
def test_what_makes_no_sense_is_422_and_says_where(
    running: Running, wrong: dict[str, Any], said: str
) -> None:
    for path in ("/v1/retrieve", "/v1/explain", "/v1/similar"):
        body = {"history": [], "item_id": 3, **wrong}
        if path != "/v1/similar":
            del body["item_id"]
        headers = {"Content-Type": "application/json"}
        answer = running.http.post(path, content=json.dumps(body), headers=headers)
        assert answer.status_code == 422, answer.text
        assert said in answer.json()["detail"]


def test_the_filter_of_a_batch_is_refused_by_its_place(running: Running) -> None:
    bad = {"must": {"key": "size", "match": {"value": 1}}}
    queries = [{"history": []}, {"history": [], "filter": bad}]
    answer = running.http.post("/v1/retrieve/batch", json={"queries": queries})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("queries.1.filter.must.key: no item has")


def test_not_a_number_is_refused(running: Running) -> None:
    body = b'{"history": [], "filter": {"must": {"key": "price", "range": {"lt": NaN}}}}'
    answer = running.http.post(
        "/v1/retrieve", content=body, headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["detail"]) == (
        422,
        "filter.must.range.lt is nan, not a number",
    )


def test_a_change_of_an_item_is_followed_and_its_time_is_the_queries(shelf: Shelf) -> None:
    running = Running(shelf)
    running.serve(1)
    red = {"must": {"key": "color", "match": {"value": "red"}}}

    def say(number: int, **more: Any) -> None:
        tell(shelf.data_dir, {number: Item(number, "", "", "", 0, **more)})
        running.follower.poll()

    say(7, attributes={"color": "red"})
    assert ids(running, filter=red) == [7]
    say(8, attributes={"color": "red"}, available_from=START_MS, available_until=START_MS + 10)
    assert ids(running, filter=red, now_ms=START_MS + 9) == [8]
    assert ids(running, filter=red, now_ms=START_MS + 10) == []
    assert 8 not in ids(running, now_ms=START_MS - 1)
    say(8, attributes={"color": "red"}, state="hidden")
    assert ids(running, filter=red) == []
    running.close()


@pytest.mark.parametrize("search", [{}, {"evidence": 0}, {"quota": "equal"}])
@pytest.mark.parametrize(
    "nothing",
    [{"include_only": []}, {"filter": {"must": {"key": "category", "match": {"value": "none"}}}}],
)
def test_where_nothing_passes_nothing_is_answered(
    running: Running, search: dict[str, Any], nothing: dict[str, Any]
) -> None:
    follower = running.follower
    before = follower.retriever
    follower.retriever = before.searched_by(replace(follower.search, **search))
    try:
        for path, more in (
            ("/v1/retrieve", {"history": []}),
            ("/v1/explain", {"history": [1, 2]}),
            ("/v1/similar", {"item_id": 7}),
            ("/v1/similar", {"item_id": 7, "history": [1, 2]}),
        ):
            answer = running.http.post(path, json=nothing | more)
            assert answer.status_code == 200, answer.text
            assert answer.json().get("answer", answer.json())["items"] == []
        both = {"queries": [nothing | {"history": [1]}, nothing | {"history": [2, 3]}]}
        answers = running.http.post("/v1/retrieve/batch", json=both).json()["answers"]
        assert [one["items"] for one in answers] == [[], []]
    finally:
        follower.retriever = before
