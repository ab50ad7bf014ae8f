from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.errors import IndexerError
from indexer.lists import item_locations as places_module
from indexer.lists.item_locations import ItemLocations

CODES = 6


@settings(max_examples=60, deadline=None)  # a loaded machine is no failure
@given(seed=st.integers(0, 10_000), steps=st.integers(1, 8), share=st.sampled_from([0, 1, 8]))
def test_after_any_changes_items_are_found_where_the_lists_hold_them(seed, steps, share):
    rng = np.random.default_rng(seed)
    ids = rng.permutation(400)
    lists = [
        np.array(part) for part in np.split(ids[:300], np.sort(rng.integers(0, 300, CODES - 1)))
    ]
    free = list(ids[300:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places_module, "LARGEST_SHARE", share)
        places = ItemLocations.of(lists)
        for _ in range(steps):
            before, held = places, [one.copy() for one in lists]
            if rng.random() < 0.5:  # two codes trade their items
                a, b = rng.choice(CODES, 2, replace=False)
                both = rng.permutation(np.concatenate([lists[a], lists[b]]))
                cut = rng.integers(0, len(both) + 1)
                lists[a], lists[b] = both[:cut], both[cut:]
                places = places.replaced({int(a): lists[a], int(b): lists[b]})
            else:
                new = np.array([free.pop() for _ in range(min(len(free), 5))], np.int64)
                codes = rng.integers(0, CODES, len(new))
                rows = np.empty(len(new), np.int64)
                for n, code in enumerate(codes):
                    rows[n] = len(lists[code])
                    lists[code] = np.append(lists[code], new[n])
                # some that are elsewhere leave their row and go to another list's end
                rows_of = [
                    (code, row)
                    for code in range(CODES)
                    for row in np.flatnonzero((lists[code] >= 0) & ~np.isin(lists[code], new))
                ]
                for at in rng.choice(len(rows_of), min(len(rows_of), 4), replace=False):
                    code, row = rows_of[at]
                    other = int(rng.integers(0, CODES))
                    item, lists[code] = lists[code][row], lists[code].copy()
                    lists[code][row] = -1
                    new = np.append(new, item)
                    codes, rows = np.append(codes, other), np.append(rows, len(lists[other]))
                    lists[other] = np.append(lists[other], item)
                places = places.moved(new, codes, rows)
            for table, holds in ((places, lists), (before, held)):
                codes, rows = table.locate(ids)
                for item, code, row in zip(ids, codes, rows, strict=True):
                    if code < 0:
                        assert not any(item in one for one in holds)
                    else:
                        assert holds[code][row] == item


def test_an_item_in_two_lists_is_refused_however_it_got_there():
    places = ItemLocations.of([np.array([1, 2]), np.array([3])])
    with pytest.raises(IndexerError, match="item 2 is in the lists more than once"):
        ItemLocations.of([np.array([1, 2]), np.array([2])])
    with pytest.raises(IndexerError, match="item 2 is in the lists more than once"):
        places.replaced({1: np.array([2, 3])})
    moved = places.moved(np.array([3]), np.array([0]), np.array([2]))
    assert moved.locate(np.array([3]))[0] == 0 and places.locate(np.array([3]))[0] == 1
    with pytest.raises(IndexerError, match="item 3 is in the lists more than once"):
        moved.replaced({1: np.array([3])})
    with pytest.raises(IndexerError, match="item 9 is in the lists more than once"):
        places.replaced({0: np.array([1, 9]), 1: np.array([9])})
