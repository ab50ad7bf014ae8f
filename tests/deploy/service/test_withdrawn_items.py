"""A withdrawn item is in no answer of the service, whichever version answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.monitoring import moment
from deploy.release.decisions import Decision, decide
from indexer.catalogue.property_chain import FOLDER, POINTER
from indexer.search.query import Query
from streaming.items import Item
from tests.deploy.release.test_judge import JudgeConfig, Judging
from tests.deploy.service.test_service import Running
from tests.deploy.service.test_service_limits import Serving
from tests.deploy.snapshot_maker import ITEMS, START_MS, Shelf
from tests.indexer.properties import tell, withdraw


@pytest.fixture
def serving(shelf: Shelf) -> Iterator[Serving]:
    one = Serving(shelf)
    yield one
    one.close()


def answered(serving: Serving, path: str = "/v1/retrieve", **body) -> list[int]:
    answer = serving.http.post(path, json={"history": [], "k": ITEMS, **body})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return [item["item_id"] for item in found.get("answer", found)["items"]]


def popular(serving: Serving) -> list[int]:
    return [one["item_id"] for one in serving.http.get("/v1/popular?k=50").json()["items"]]


def test_it_is_in_no_answer_and_comes_back_when_it_is_withdrawn_no_more(serving: Serving) -> None:
    clicked = know_history(serving)
    gone = [popular(serving)[0], clicked[-1]]
    assert set(gone) <= set(answered(serving))
    withdraw(serving.follower._data_dir, gone)
    assert serving.follower.poll()
    for path in ("/v1/retrieve", "/v1/explain"):
        assert len(answered(serving, path)) == ITEMS - len(set(gone))
        assert not set(gone) & set(answered(serving, path))
        # neighbours of what was clicked, and what is hot, come by another way than the lists
        near = answered(serving, path, history=clicked, exclude_seen=False)
        assert not set(gone) & set(near)
    assert not set(gone) & set(popular(serving))
    assert serving.http.get("/health").json()["items"] == ITEMS - len(set(gone))
    withdraw(serving.follower._data_dir, ())
    assert serving.follower.poll()
    assert len(answered(serving)) == ITEMS and gone[0] in popular(serving)


def know_history(serving: Serving) -> list[int]:
    history = serving.histories.get(3)
    assert history is not None
    return history.items


@pytest.mark.parametrize("ends", ["available_from", "available_until"])
def test_it_is_answered_within_its_time_alone_whatever_version_answers(
    serving: Serving, shelf: Shelf, ends: str
) -> None:
    noon = START_MS + 10**9
    one = popular(serving)[0]
    tell(shelf.data_dir, {one: Item(one, **{ends: noon})})  # type: ignore[arg-type]
    serving.follower.poll()
    for version in (2, 1):
        assert serving.follower.retriever.version == version
        for path in ("/v1/retrieve", "/v1/explain"):
            before = one in answered(serving, path, now_ms=noon - 1)
            assert before == (ends == "available_until")
            assert (one in answered(serving, path, now_ms=noon)) != before
        shelf.point_at(1)
        serving.follower.poll()
    # a query that names no time is asked at that of the newest click
    assert (one in answered(serving)) == (one in popular(serving)) == (ends == "available_until")


def test_where_clicks_are_live_a_query_without_a_time_is_asked_now(serving: Serving) -> None:
    newest = serving.histories.latest_event_time_ms
    assert serving.service.now_ms() == newest  # of a log, long ago
    wall = newest / 1000 + 3_600
    serving.service.clock = lambda: moment.now()._replace(wall=wall)
    one = popular(serving)[0]
    tell(serving.follower._data_dir, {one: Item(one, available_until=newest + 1_800_000)})
    serving.follower.poll()
    assert one not in answered(serving) and one not in popular(serving)
    assert one in answered(serving, now_ms=newest)


def test_of_a_catalogue_that_is_mostly_hidden_the_rest_is_popular(serving: Serving) -> None:
    all_of_it = popular(serving)
    tell(serving.follower._data_dir, {one: Item(one, state="hidden") for one in all_of_it[:-1]})
    serving.follower.poll()
    rest = popular(serving)
    assert all_of_it[-1] in rest and not set(all_of_it[:-1]) & set(rest)


def test_a_filter_asks_for_what_the_shop_said_of_an_item(serving: Serving) -> None:
    attributes = {
        "brand": "Pelfen",
        "price": 12.5,
        "new": True,
        "sizes": ["S", "M"],
        "since": {"time": START_MS},
    }
    bare = {one: Item(one) for one in range(1, 9)}
    tell(serving.follower._data_dir, bare | {7: Item(7, attributes=attributes)})  # type: ignore[arg-type]
    serving.follower.poll()
    for condition in (
        {"key": "brand", "match": {"value": "Pelfen"}},
        {"key": "price", "range": {"gt": 12, "lte": 12.5}},
        {"key": "new", "match": {"value": True}},
        {"key": "sizes", "match": {"any": ["M", "L"]}},
        {"key": "since", "range": {"gte": START_MS}},
    ):
        assert answered(serving, filter={"must": [condition]}) == [7]
    tell(serving.follower._data_dir, bare | {7: Item(7, attributes={"price": 9})})
    serving.follower.poll()
    above = {"must": [{"key": "price", "range": {"gt": 12}}]}
    assert answered(serving, filter=above) == []


def test_a_history_goes_on_to_hold_it_and_to_show_its_title(serving: Serving) -> None:
    clicked = know_history(serving)
    before = serving.http.post("/v1/explain", json={"user_id": 3}).json()
    withdraw(serving.follower._data_dir, clicked)
    serving.follower.poll()
    assert know_history(serving) == clicked
    state = serving.service.retriever()
    assert [row["title"] for row in state.titles(clicked)] == [
        f"Item {item} of kind {item % 7}" for item in clicked
    ]
    after = serving.http.post("/v1/explain", json={"user_id": 3}).json()
    assert before.keys() == after.keys()


def test_neither_a_restart_nor_an_older_version_nor_a_newer_one_brings_it_back(shelf: Shelf):
    running = Running(shelf)
    for version in (1, 2):
        running.serve(version)
    withdraw(shelf.data_dir, [7])
    running.follower.poll()

    def items() -> list[int]:
        return [one["item_id"] for one in running.retrieve(history=[], k=ITEMS)["items"]]

    assert 7 not in items()
    shelf.point_at(1)  # back to a version that does not know of it
    assert running.follower.poll() and running.follower.retriever.version == 1
    assert 7 not in items()
    running.close()
    running = Running(shelf)
    assert running.follower.poll() and 7 not in items()
    running.serve(3)
    assert running.retrieve(history=[])["version"] == 3 and 7 not in items()
    running.close()


def test_a_version_that_was_loaded_to_be_judged_answers_without_it_once_promoted(shelf: Shelf):
    judging = Judging(shelf, JudgeConfig(least_events=20, patience_seconds=5.0))
    shelf.publish(1)
    judging.look()
    shelf.publish(2)
    assert judging.look() == 1 and judging.follower.challenger == 2
    withdraw(shelf.data_dir, [7])
    judging.look()
    assert judging.follower.challenger == 2
    judging.now = 100.0
    assert judging.look() == 2  # nobody came to be asked
    assert 7 not in judging.follower.retriever.answer(query()).items
    decide(shelf.data_dir, Decision(1, "pinned", "person", "the test"))
    assert judging.look() == 1
    assert 7 not in judging.follower.retriever.answer(query()).items


def query(k: int = ITEMS) -> Query:
    return Query([], k=k)


def test_listed_again_it_is_answered_by_an_older_version_that_serves(shelf: Shelf):
    running = Running(shelf)
    running.serve(1)
    withdraw(shelf.data_dir, [7])
    running.follower.poll()
    shelf.append(1, [Item(7, "again"), Item(1000, "new")])
    running.follower.poll()
    assert {1000} == {1000, 7} & set(running.follower.retriever.answer(query()).items)
    withdraw(shelf.data_dir, [])
    running.follower.poll()
    assert {1000, 7} <= set(running.follower.retriever.answer(query(ITEMS + 1)).items)
    running.close()


def test_a_damaged_file_changes_nothing(shelf: Shelf):
    running = Running(shelf)
    running.serve(1)
    withdraw(shelf.data_dir, [7])
    running.follower.poll()
    (shelf.data_dir / POINTER).write_bytes(b"{")
    running.follower.poll()
    assert 7 not in running.follower.retriever.answer(query()).items
    running.serve(2)
    assert 7 not in running.follower.retriever.answer(query()).items
    running.close()


def test_what_cannot_be_read_for_a_moment_is_read_again(shelf: Shelf):
    running = Running(shelf)
    running.serve(1)
    running.follower._retry_seconds = 0.0
    withdraw(shelf.data_dir, [7])
    (file,) = (shelf.data_dir / FOLDER).iterdir()
    away = file.rename(file.with_suffix(".away"))
    running.follower.poll()
    assert 7 in running.follower.retriever.answer(query()).items
    away.rename(file)  # nothing else says that there is something to be read
    running.follower.poll()
    assert 7 not in running.follower.retriever.answer(query()).items
    running.close()


def test_versions_that_are_looked_at_side_by_side_do_not_show_it(serving: Serving) -> None:
    def shown() -> set[int]:
        found = serving.http.get("/v1/compare?a=1&b=2").json()
        answers = [sample[side] for sample in found["samples"] for side in ("a", "b")]
        return {int(item["item_id"]) for answer in answers for item in answer}

    gone = sorted(shown())[:3]
    withdraw(serving.follower._data_dir, gone)
    serving.follower.poll()
    assert shown() and not shown() & set(gone)
