"""An indexer driven without Kafka, also in a process that is killed with signal 9."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import indexer.catalogue.property_chain as property_chain_module
import indexer.indexing.indexer as indexer_module
import indexer.indexing.publication as publication_module
import indexer.indexing.served_version as serving_module
import indexer.snapshots.snapshot_writing as writing_module
from indexer.indexing.config import IndexerConfig
from indexer.indexing.indexer import Indexer
from indexer.indexing.item_store import ItemStore
from indexer.indexing.listing import Announced
from streaming.items import Item, Withdrawal
from tests.indexer.stand_in import StandIn

EXACT = IndexerConfig(max_backlog=99)
"""Every handover becomes a version."""


STEPS: dict[str, tuple[object, str]] = {
    "reserve_version": (publication_module.VersionRecord, "reserve_version"),
    "link": (writing_module, "link"),
    "write lists": (writing_module.CodeLists, "write"),
    "write changes": (writing_module.ListChanges, "save"),
    "write placed items": (writing_module.PlacedItems, "write"),
    "write catalogue": (writing_module.Rows, "write"),
    "publish": (writing_module, "publish"),
    "load_snapshot": (publication_module, "load_snapshot"),
    "write_pointer": (indexer_module, "write_pointer"),
    "commit_version": (indexer_module.VersionRecord, "commit_version"),
    "forget_places": (indexer_module.ItemStore, "forget_places"),
    "remove_versions": (indexer_module, "remove_versions"),
    "announce": (indexer_module.ItemStore, "announce"),
    "write properties": (property_chain_module.PropertyChain, "_written"),
    "point to properties": (property_chain_module, "write_atomically"),
    "write_appended": (serving_module, "write_appended"),
    "write_pointer of appended": (serving_module, "write_pointer"),
}
"""What a publication does to disk, in order; a kill before or after each must be healed."""


@contextmanager
def running(data_dir: Path, config: IndexerConfig | None = None, **more) -> Iterator[Indexer]:
    store = ItemStore(data_dir / "indexer" / "rocksdb")
    try:
        indexer = Indexer(
            config or IndexerConfig(), store, data_dir, lambda: 1_000, StandIn.load, **more
        )
        indexer.recover()
        yield indexer
    finally:
        store.close()


def items_of(model: StandIn) -> list[Item]:
    return [
        Item(int(i), f"title {i}", "3", f"B{i}", 100 + n) for n, i in enumerate(model.item_ids_N)
    ]


def listed_again(number: int) -> Item:
    """An item that no model knows, as it is listed with a handover."""
    return Item(800_000, f"title at {number}", "3", "B", 7)


def announce(indexer: Indexer, items: Sequence[Item | Withdrawal], time_ms: int = 0) -> None:
    start = indexer.store.position.get(0, 0)
    records = [
        Announced(0, start + n, item.to_bytes(), item.key(), time_ms)
        if isinstance(item, Item)
        else Announced(0, start + n, None, b"%d" % item.item_id, time_ms)
        for n, item in enumerate(items)
    ]
    indexer.listen(records, {0: start + len(records)})


def catch_up(indexer: Indexer) -> None:
    indexer.append_waiting()
    while (number := indexer.handovers.next()) is not None:
        indexer.index_handover(number)


def serve_first(indexer: Indexer, data_dir: Path, model: StandIn) -> None:
    """All items of a model listed, and its first handover served."""
    announce(indexer, items_of(model))
    model.hand_over(data_dir, 1)
    catch_up(indexer)


def drive(
    indexer: Indexer, data_dir: Path, models: list[StandIn], handovers: Iterable[int]
) -> None:
    """The work of one run: announce all items (again), index every handover, append one item.

    With each handover, which is a delta where it can be, an item is listed again.
    """
    announce(indexer, items_of(models[0]))
    for number, model in zip(handovers, models, strict=True):
        if not (data_dir / "handover" / f"{number:08d}").exists():
            before = (data_dir / "handover" / f"{number - 1:08d}").exists()
            model.hand_over(data_dir, number, after=number - 1 if before else None)
        announce(indexer, [listed_again(number)])
        catch_up(indexer)
    announce(indexer, [Item(900_000, "new", "", "", 1)])
    indexer.append_waiting()


@dataclass(frozen=True)
class KillAt:
    """Before or after the `nth` call of a step."""

    step: str
    when: str
    nth: int

    def arm(self) -> None:
        owner, name = STEPS[self.step]
        original, calls = getattr(owner, name), 0

        def step(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == self.nth and self.when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **kwargs)
            if calls == self.nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, step)


def _drive(
    data_dir: Path, models: list[StandIn], handovers: Iterable[int], at: KillAt | None
) -> None:
    if at is not None:
        at.arm()
    with running(data_dir, EXACT) as indexer:
        drive(indexer, data_dir, models, handovers)


def in_another_process(
    data_dir: Path,
    models: list[StandIn],
    handovers: Iterable[int],
    at: KillAt | None = None,
    seconds: float = 60,
) -> int | None:
    """`drive`, killed at a step or after `seconds`; how the process ended."""
    # A fork of this process would lack the threads that rocksdb has in it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    child = context.Process(target=_drive, args=(data_dir, models, handovers, at))
    child.start()
    child.join(seconds)
    child.kill()
    child.join()
    return child.exitcode
