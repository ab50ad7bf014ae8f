"""What a change of one item's properties costs the indexer and every worker that answers.

    python -m tests.benchmarks.item_changes --items 1000000 --out item_changes.json

The catalogue has a text, a number, a truth value, a list and a time at each item; a hundredth of it
is hidden. The store and the chain of properties are filled, a reader and a search follow them,
and one item after the other gets another price, or is hidden and listed again. By the clock, in ms.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil

from indexer.catalogue.property_chain import read_pointer
from indexer.catalogue.property_reader import PropertyReader
from indexer.indexing.item_store import ItemStore
from indexer.indexing.told_properties import ToldProperties
from indexer.lists.code_lists import CodeLists
from indexer.search.answerable import Answerable
from indexer.search.soft_search import SoftSearch
from streaming.items import Item
from tests.benchmarks.clustered_items import ClusteredModel, clustered
from tests.benchmarks.reports import begun, write

CHUNK = 50_000
NOW = 1_795_946_400_000
BRANDS = [f"brand {n}" for n in range(500)]


def item(number: int, rng: np.random.Generator) -> Item:
    attributes = {
        "brand": BRANDS[int(rng.integers(len(BRANDS)))],
        "price": float(rng.integers(1, 10_000)) / 100,
        "new": bool(rng.random() < 0.1),
        "sizes": ["S", "M", "L"][: int(rng.integers(4))],
        "released": {"time": NOW - int(rng.integers(10**11))},
    }
    state = "hidden" if rng.random() < 0.01 else "listed"
    title, category = f"title of item {number}", f"category {number % 300}"
    return Item(number, title, category, "", NOW, state, attributes=attributes)  # type: ignore[arg-type]


@contextmanager
def timed(into: list[float]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    into.append(1000 * (time.perf_counter() - began))


def quantiles(ms: list[float]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(ms, q)), 2) for q in (50, 95, 100)}


def memory_mib() -> float:
    gc.collect()
    info = psutil.Process().memory_full_info()
    return round(info.uss / 2**20, 1)


def measure(items: int, changes: int, seed: int, place: Path) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    store = ItemStore(place / "store")
    told = ToldProperties(store, place)
    told.recover()
    filling: list[float] = []
    with timed(filling):
        for first in range(0, items, CHUNK):
            numbers = range(first, min(first + CHUNK, items))
            store.announce([(item(n, rng), 0, n, NOW) for n in numbers], {0: numbers[-1] + 1})
    first_told: list[float] = []
    with timed(first_told):
        told.tell(set(range(items)), set(), False)
    before = memory_mib()
    reader, opening = PropertyReader(place), list[float]()
    with timed(opening):
        reader.read()
    held = memory_mib() - before
    made = clustered(items, 512, 32, seed)
    lists = CodeLists.build(made.item_ids_N, made.codes_NQ, made.vectors_ND, 512)
    search = SoftSearch(ClusteredModel(made.centroids_CD), lists)  # type: ignore[arg-type]
    answerable = Answerable(search, reader.columns)
    answerable.of(None, None, NOW)
    telling, reading, following = list[float](), list[float](), list[float]()
    for number in range(changes):
        known = store.said_of(int(rng.integers(items)))
        assert known is not None
        if number % 2:
            after = replace(known, state="listed" if known.state == "hidden" else "hidden")
        else:
            after = replace(known, attributes={**known.attributes, "price": float(number)})
        at = items + number
        store.announce([(after, 0, at, NOW)], {0: at + 1})
        with timed(telling):
            told.tell({known.item_id}, set(), False)
        with timed(reading):
            columns = reader.read()
        with timed(following):
            answerable = Answerable(search, columns, answerable)
            answerable.of(None, None, NOW)
    pointer = read_pointer(place)
    store.close()
    assert pointer is not None
    return {
        "store_filled_s": round(filling[0] / 1000, 2),
        "all_told_s": round(first_told[0] / 1000, 2),
        "reader_opens_s": round(opening[0] / 1000, 4),
        "reader_holds_mib": held,
        "reader_and_search_hold_more_mib": round(memory_mib() - before - held, 1),
        "files": len(pointer.files),
        "files_mib": round(sum(one.bytes for one in pointer.files) / 2**20, 1),
        "one_change_told_ms": quantiles(telling),
        "one_change_read_ms": quantiles(reading),
        "first_answerable_after_it_ms": quantiles(following),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    report = begun("item_changes", options)
    with tempfile.TemporaryDirectory() as place:
        figures = measure(options.items, options.changes, options.seed, Path(place))
    write(report | figures, options)


if __name__ == "__main__":
    main()
