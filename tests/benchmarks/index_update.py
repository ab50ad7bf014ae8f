"""What a change of the index costs, beside building it: in memory, and on disk with the store.

    python -m tests.benchmarks.index_update --items 1000000 --out index_update.json

In memory: lists of all items, then a share of the items changes in four ways, `--changes` times,
each on top of the one before, so that the copies that are made now and then are in the mean. On
disk: the indexer publishes a first version of all items (read from a handover, written, verified,
committed to rocksdict, pointed to), then the same share of the items is listed anew, and once more
under other titles, so that vectors and codes change, `--changes-on-disk` times. The shares are of
what the full build took in the same run, by the clock and of the processor. The target is on the
processor's time, which other processes do not lengthen.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import structlog

from deploy.studies.machine_facts import peak_memory_gib
from indexer.indexing.config import IndexerConfig
from indexer.indexing.indexer import Indexer
from indexer.indexing.item_store import ItemStore
from indexer.indexing.listing import Announced
from indexer.lists.code_list import CodeList
from indexer.lists.code_lists import CodeLists, members
from model.artifacts.manifest import Manifest
from model.retrieval.item_segments import ItemSegments
from streaming.items import Item
from tests.benchmarks.clustered_items import clustered
from tests.benchmarks.reports import begun, write
from tests.indexer.stand_in import StandIn

TARGET = 0.05
BUILDS = 3


class WideStandIn(StandIn):
    """A stand-in whose codes are found in pieces, so that many items fit."""

    def _codes(self, vectors: np.ndarray) -> np.ndarray:
        squares_C = (self.centroids_CD**2).sum(axis=1)
        parts = []
        for a in range(0, len(vectors), 65_536):
            near = vectors[a : a + 65_536] @ self.centroids_CD.T - squares_C / 2
            first = near.argmax(axis=1)
            parts.append(np.repeat(first[:, None], self.levels, axis=1))
        return np.concatenate([np.empty((0, self.levels), np.int64), *parts])


class Took(NamedTuple):
    """By the clock, and of the processor: other processes lengthen the first alone."""

    seconds: float
    cpu_seconds: float


@contextmanager
def timed(found: list[Took]) -> Iterator[None]:
    began, worked = time.perf_counter(), time.process_time()
    yield
    found.append(Took(time.perf_counter() - began, time.process_time() - worked))


def in_memory(
    items: int, codes: int, dimension: int, share: float, changes: int, seed: int
) -> dict:
    """Seconds of a build and of four kinds of change."""
    made = clustered(items, codes, dimension, seed)
    rng = np.random.default_rng(seed + 1)
    count = max(1, int(items * share))
    build: list[Took] = []
    codes_NQ = made.codes_NQ
    for _ in range(BUILDS):
        with timed(build):
            lists = CodeLists.build(made.item_ids_N, codes_NQ, made.vectors_ND, codes)
    members_C = members(made.codes_N, made.item_ids_N, codes)
    vectors_ND = made.vectors_ND * np.float32(1.01)
    found: dict[str, list[Took]] = {}

    def change(name: str, work: Callable[[], CodeLists]) -> CodeLists:
        with timed(found.setdefault(name, [])):
            return work()

    grown = stayed = moved = lists
    for n in range(changes):
        order = rng.permutation(codes)
        drifted = order[: max(1, int((np.cumsum(lists.sizes_C[order]) <= count).sum()))].tolist()
        change(
            "drifted codes that hold as many items",
            lambda drifted=drifted: lists.replaced(
                {
                    code: CodeList.of(
                        made.item_ids_N[members_C[code]],
                        made.second_N[members_C[code]],
                        vectors_ND[members_C[code]],
                    )
                    for code in drifted
                }
            ),
        )
        ids = np.arange(count) + (n + 2) * 10 * items
        rows = rng.choice(items, count, replace=False)
        known, own, new = made.item_ids_N[rows], codes_NQ[rows], vectors_ND[rows]
        other = rng.integers(0, codes, (count, 2))
        grown = change(
            "new items of all codes",
            lambda grown=grown, ids=ids, own=own, new=new: grown.with_items(ids, own, new),
        )
        stayed = change(
            "items of all codes get other vectors",
            lambda stayed=stayed, known=known, own=own, new=new: stayed.with_items(known, own, new),
        )
        moved = change(
            "items of all codes move to any other",
            lambda moved=moved, known=known, other=other, new=new: moved.with_items(
                known, other, new
            ),
        )
    assert (len(grown), len(stayed), len(moved)) == (items + changes * count, items, items)
    return _beside_build(Took(*np.median(build, axis=0)), found)


def on_disk(
    items: int, codes: int, dimension: int, share: float, changes: int, seed: int
) -> dict[str, Any]:
    """Seconds of a first publication, and of items listed after it until readers can find them."""
    made = clustered(items, codes, dimension, seed)
    count = max(1, int(items * share))
    rng = np.random.default_rng(seed)
    found: dict[str, list[Took]] = {}
    with tempfile.TemporaryDirectory() as place:
        data_dir = Path(place)
        model = WideStandIn(made.item_ids_N, made.vectors_ND, made.centroids_CD)
        model.hand_over(data_dir, 1)
        store = ItemStore(data_dir / "store")
        indexer = Indexer(IndexerConfig(), store, data_dir, lambda: 0, load)
        indexer.recover()
        offset = 0
        build: list[Took] = []
        catalogue = [Item(int(i), listed_at=1) for i in made.item_ids_N]
        with timed(build):
            for a in range(0, items, 5000):
                offset = _listen(indexer, catalogue[a : a + 5000], offset)
            indexer.index_handover(1)
        for n in range(changes):
            first = 10 * items + n * count
            new = [Item(first + i, f"new {i}", listed_at=2) for i in range(count)]
            rows = rng.choice(items, count, replace=False)
            again = [Item(int(made.item_ids_N[r]), f"title {n}", listed_at=3) for r in rows]
            for name, listed in (("new items", new), ("items under other titles", again)):
                with timed(found.setdefault(name, [])):
                    offset = _listen(indexer, listed, offset)
                    assert indexer.append_waiting() == count
        store.close()
    return _beside_build(build[0], found)


def load(directory: Path, manifest: Manifest, items: ItemSegments) -> WideStandIn:
    return WideStandIn.load(directory, manifest, items)  # type: ignore[return-value]


def _listen(indexer: Indexer, items: list[Item], offset: int) -> int:
    records = [Announced(0, offset + n, item.to_bytes()) for n, item in enumerate(items)]
    indexer.listen(records, {0: offset + len(records)})
    return offset + len(records)


def _beside_build(build: Took, found: dict[str, list[Took]]) -> dict[str, Any]:
    changes = {}
    for name, took in found.items():
        mean = Took(*np.mean(took, axis=0))
        changes[name] = {
            "seconds": round(mean.seconds, 5),
            "cpu_seconds": round(mean.cpu_seconds, 5),
            "share_of_build": round(mean.seconds / build.seconds, 5),
            "share_of_build_cpu": round(mean.cpu_seconds / build.cpu_seconds, 5),
            "within_target": bool(mean.cpu_seconds / build.cpu_seconds <= TARGET),
        }
    return {
        "build_seconds": round(build.seconds, 4),
        "build_cpu_seconds": round(build.cpu_seconds, 4),
        "changes": changes,
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--codes", type=int, default=1024)
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--changes", type=int, default=30)
    parser.add_argument("--changes-on-disk", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    size = (options.items, options.codes, options.dimension, options.share)
    on_disk(1000, 8, 8, 0.01, 1, 0)  # what is imported at the first use is not the index's cost
    result = begun("index_update", options)
    for name, part, changes in (
        ("in_memory", in_memory, options.changes),
        ("on_disk", on_disk, options.changes_on_disk),
    ):
        if changes:
            result[name] = part(*size, changes, options.seed)
            print(name, json.dumps(result[name]), file=sys.stderr, flush=True)
    result["peak_memory_gib"] = peak_memory_gib()
    write(result, options)
    return result


if __name__ == "__main__":
    main()
