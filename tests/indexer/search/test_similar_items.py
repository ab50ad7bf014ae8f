"""Items like an item are those that brute force ranks first, each with what brought it."""

from __future__ import annotations

import numpy as np
import pytest

from indexer.catalogue.item_columns import WITHDRAWN, ItemColumns
from indexer.search.config import SearchConfig
from indexer.search.query import Query, QueryError
from indexer.search.retriever import Retriever
from indexer.search.similar_items import Trigger
from indexer.search.soft_search import SoftSearch
from indexer.snapshots.snapshot_reading import load_snapshot
from model.histories import History
from streaming.items import Item
from tests.deploy.snapshot_maker import ITEMS, START_MS, clicks, make_snapshots
from tests.indexer.made_columns import batch_of

EVERY_CODE = 10_000


@pytest.fixture(scope="module")
def retriever(tmp_path_factory) -> Retriever:
    data_dir = tmp_path_factory.mktemp("data")
    make_snapshots(data_dir, 1)
    snapshot = load_snapshot(data_dir / "snapshots" / "00000001")
    return Retriever(snapshot, SearchConfig(codes=4))


@pytest.mark.parametrize("before", [[], [9, 16, 23]], ids=["nobody", "a user"])
def test_in_all_codes_it_is_what_brute_force_ranks_first(retriever: Retriever, before: list[int]):
    model, lists = retriever.snapshot.model, retriever.snapshot.lists
    item, now_ms = clicks()[0].target, retriever.event_time_ms
    found = retriever.similar(item, Query(before, k=ITEMS, codes=EVERY_CODE))
    clicked = History([*before, item], [now_ms] * (len(before) + 1))
    ids, at = model.item_ids_N, np.array([now_ms])
    codes_N = lists.locate(ids)[0]
    users_CD = model.user_vectors(model.encode([clicked], at), np.arange(8)[None])[0]
    scores_N = np.einsum("nd,nd->n", lists.vectors_of(ids), users_CD[codes_N])
    near, adds = model.near(model.encode([History([item], [now_ms])], at))
    scores_N[model.rows(near[0])] += adds[0]
    scores_N[model.rows(np.array([item, *before]))] = -np.inf
    best = np.argsort(-scores_N)[: ITEMS - 1 - len(before)]
    assert found.items == ids[best].tolist()
    np.testing.assert_allclose(found.scores, scores_N[best], atol=1e-4)
    told = {
        i for i, sources in zip(found.items, found.sources, strict=True) if "neighbour" in sources
    }
    assert told == set(near[0].tolist()) - {-1, *before} and told
    same = [code == found.code for code in found.codes]
    assert ["code" in sources for sources in found.sources] == same


def test_the_items_of_the_history_stay_in_where_asked_but_never_the_item_itself(
    retriever: Retriever,
) -> None:
    everything = Query([3, 10], k=ITEMS, codes=EVERY_CODE, exclude_seen=False)
    assert sorted(retriever.similar(10, everything).items) == sorted({*range(1, ITEMS + 1)} - {10})


def test_a_history_that_ends_with_the_item_is_that_of_who_looks_at_it_now(
    retriever: Retriever,
) -> None:
    before, after = Query([3, 17]), Query([3, 17, 10, 10])
    assert retriever.similar(10, before).items == retriever.similar(10, after).items
    assert retriever.similar(10, Query([10])).items == retriever.similar(10, Query([])).items


def test_an_answer_is_full_where_few_codes_hold_too_little(retriever: Retriever) -> None:
    found = retriever.similar(1, Query([], k=50, codes=1))
    assert len(found.items) == 50 and found.sources[-1] == ["nearby"]
    assert found.scores == sorted(found.scores, reverse=True)


def test_an_item_that_is_in_no_list_is_refused(retriever: Retriever) -> None:
    with pytest.raises(QueryError, match="item_id: 12345 is not listed in version 1"):
        retriever.similar(12345, Query([]))


def test_what_is_withheld_is_not_answered_but_can_be_asked_about(retriever: Retriever) -> None:
    gone = retriever.with_columns(ItemColumns.of([batch_of({5: {"state": WITHDRAWN}})]))
    assert 5 not in gone.similar(12, Query([], k=ITEMS)).items
    assert (
        gone.similar(5, Query([], k=ITEMS)).items == retriever.similar(5, Query([], k=ITEMS)).items
    )


def test_an_item_that_the_model_has_not_learnt_finds_what_lies_next_to_it(
    retriever: Retriever,
) -> None:
    model, lists = retriever.snapshot.model, retriever.snapshot.lists
    vectors, codes = model.embed([Item(999, "Item 999 of kind 3", "kind 3")])
    trigger = Trigger(999, int(codes[0, 0]), vectors[0])
    similar = SoftSearch(model, lists, SearchConfig()).similar
    found = similar.search(trigger, History([], []), START_MS, 5, EVERY_CODE)
    nearest = np.argsort(-(lists.vectors_of(model.item_ids_N) @ vectors[0]))[:5]
    assert found.items == model.item_ids_N[nearest].tolist()
    assert not any("neighbour" in sources for sources in found.sources)
    for_a_user = similar.search(trigger, History([3], [START_MS]), START_MS, 5, EVERY_CODE)
    assert len(for_a_user.items) == 5
