"""What a catalogue that turns over leaves behind: sizes after its first and its last generation.

    python -m tests.benchmarks.turnover --live 5000 --generations 10 --out turnover.json

So many items are live at once. Step by step, a tenth of a generation at a time, new ones are listed
and the oldest withdrawn; all go through the trainer's state, its checkpoints and handovers, and the
indexer, as in the pipeline, but for Kafka. With `--grace-days 1000000` nothing is ever forgotten.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from indexer.indexing.config import IndexerConfig
from indexer.indexing.indexer import Indexer
from indexer.indexing.item_store import ItemStore
from model.learning.config import LearnerConfig
from model.learning.learner import Learner
from model.retrieval.retrieval_model import RetrievalModel
from model.training.checkpoint import CheckpointDirectory
from model.training.handover import HandoverDirectory
from model.training.micro_batch import MicroBatch, Plan
from model.training.training_state import TrainingState
from streaming.events import UserSequence
from streaming.item_lifetime import ItemsConfig
from streaming.items import Item, Withdrawal
from tests.indexer.driving import announce

DAY_MS = 86_400_000
STEPS = 10
"""Of a generation; between two the log's clock goes on by a day."""
USERS = 200
LIFETIME = ItemsConfig(grace_days=0.5)


class Turnover:
    """A trainer's state and an indexer over a catalogue of which `live` items are live at once."""

    def __init__(
        self,
        data_dir: Path,
        config: LearnerConfig,
        live: int,
        clicks: int,
        lifetime: ItemsConfig = LIFETIME,
    ) -> None:
        self.data_dir, self.config, self.live, self.clicks = data_dir, config, live, clicks
        self.lifetime = lifetime
        self.state = self._state(None)
        self.checkpoints = CheckpointDirectory(data_dir / "checkpoints", 2)
        self.handovers = HandoverDirectory(data_dir / "handover", 3, RetrievalModel.load)
        self.store = ItemStore(data_dir / "indexer" / "rocksdb")
        self.indexer = Indexer(
            IndexerConfig(keep_versions=2), self.store, data_dir, lambda: self.now_ms,
            items=lifetime,
        )  # fmt: skip
        self.indexer.recover()
        self.random = np.random.default_rng(0)
        self.items: list[int] = []
        self.now_ms, self.entry, self.next_id, self.said = 1000 * DAY_MS, 0, 0, 0
        self.histories: dict[int, list[tuple[int, int]]] = {}
        self.positions = np.zeros(USERS, np.int64)

    def _state(self, saved: Any) -> TrainingState:
        def make(state: Any) -> Learner:
            return Learner(self.config) if state is None else Learner.restore(self.config, state)

        return TrainingState(make, 1000, saved, self.lifetime.grace_ms)

    def step(self, new: int) -> None:
        """List so many items, withdraw as many of the oldest, click, publish and index."""
        self.now_ms += DAY_MS
        listed = [
            Item(i, f"thing {i % 97} of kind {i % 13}", str(i % 13), listed_at=self.now_ms)
            for i in range(self.next_id, self.next_id + new)
        ]
        self.next_id += new
        self.items += [one.item_id for one in listed]
        gone, self.items = self.items[: -self.live], self.items[-self.live :]
        announce(self.indexer, [*listed, *map(Withdrawal, gone)], self.now_ms)
        self.indexer.append_waiting()
        first, self.said = self.said, self.said + new + len(gone)
        self.entry += 1
        self.state.train(
            self.entry,
            MicroBatch(
                Plan({}, {0: (first, self.said)}, self.clicks, 0),
                listed,
                self._sequences(),
                0,
                dict.fromkeys(gone, self.now_ms),
            ),
        )
        self._publish()

    def _sequences(self) -> list[UserSequence]:
        found = []
        for n in range(self.clicks):
            user = int(self.random.integers(USERS))
            place = min(int(self.random.geometric(8 / self.live)), self.live, len(self.items))
            item, time = self.items[-place], self.now_ms + n
            past = self.histories.get(user, [])[-20:]
            self.positions[user] += 1
            found.append(
                UserSequence(
                    f"{self.now_ms}-{n}", user, time, int(self.positions[user]),
                    [i for i, _ in past], [t for _, t in past], item,
                )
            )  # fmt: skip
            self.histories[user] = [*past, (item, time)]
        return found

    def _publish(self) -> None:
        self.entry += 1
        number = self.state.progress.handovers + 1
        published = self.handovers.items(number - 1)
        export = self.state.publish(self.entry, number, "interval", published)
        self.checkpoints.save(self.state.save)
        facts = self.state.progress.handover
        assert facts is not None
        self.handovers.publish(number, export, facts)
        self.state.learner.mark_published()
        assert self.indexer.index_handover(number) == number

    def sizes(self) -> dict[str, int]:
        """Rows and bytes of everything that grows with a catalogue."""
        saved = CheckpointDirectory(self.data_dir / "checkpoints", 9).newest()
        assert saved is not None
        [rows] = self._state(saved).save(whole=True).rows
        number = self.state.progress.handovers
        items, served = self.handovers.items(number), self.indexer.served_version
        assert items is not None and served is not None
        snapshot = served.snapshot
        store = self.store
        return {
            "live_items": len(self.items),
            "trainer_rows": len(rows["learner.tables.catalogue.ids"]),
            "trainer_neighbours": len(rows["learner.tables.neighbours.items"]),
            "prequential_rows": len(rows["prequential.ids"]),
            "checkpoint_bytes": sum(x.nbytes for x in rows.values()),
            "checkpoint_files": size_of(self.data_dir / "checkpoints" / f"{saved.entry:012d}"),
            "handover_rows": len(items),
            "handover_base_bytes": items.as_base().nbytes,
            "handover_files": size_of(self.data_dir / "handover" / f"{number:08d}"),
            "store_items": store.count_listed(),
            "store_withdrawn": len(store.withdrawn()),
            "listed_items": len(snapshot.lists),
            "list_rows": int(snapshot.lists.lengths_C.sum()),
            "absent_items": len(snapshot.absent),
            "item_table_rows": sum(len(part.ids_n) for part in snapshot.catalogue.parts),
            "location_bytes": snapshot.lists.item_locations.nbytes,
            "snapshot_files": size_of(snapshot.path),
            "properties_files": size_of(self.data_dir / "properties"),
        }

    def close(self) -> None:
        """Release the store."""
        self.store.close()


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def turn_over(
    data_dir: Path,
    config: LearnerConfig,
    live: int,
    generations: int,
    clicks: int,
    look: Callable[[dict[str, int]], None] = lambda _: None,
    steps: int = STEPS,
    lifetime: ItemsConfig = LIFETIME,
) -> list[dict[str, int]]:
    """Sizes after each generation, whose items have taken the place of those before.

    Args:
        data_dir: where everything is kept.
        config: of the learner.
        live: items at once.
        generations: how often all of them are replaced, the first listing among them.
        clicks: in each step of a generation.
        look: is given each of the sizes at once.
        steps: of a generation.
        lifetime: of withdrawn items.
    """
    turnover = Turnover(data_dir, config, live, clicks, lifetime)
    found = []
    try:
        turnover.step(live)
        for generation in range(1, generations + 1):
            for _ in range(steps):
                turnover.step(live // steps)
            found.append({"generation": generation} | turnover.sizes())
            look(found[-1])
    finally:
        turnover.close()
    return found


def main() -> None:
    """Measure, and write the sizes as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--live", type=int, default=5000)
    parser.add_argument("--generations", type=int, default=10)
    parser.add_argument("--clicks", type=int, default=500)
    parser.add_argument("--grace-days", type=float, default=LIFETIME.grace_days)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = replace(LearnerConfig(), replay_capacity=8192)
    with tempfile.TemporaryDirectory() as folder:
        found = turn_over(
            Path(folder), config, args.live, args.generations, args.clicks,
            lambda sizes: print(json.dumps(sizes), flush=True),
            lifetime=ItemsConfig(grace_days=args.grace_days),
        )  # fmt: skip
    ratios = {name: round(found[-1][name] / max(1, found[0][name]), 3) for name in found[0]}
    body = vars(args) | {"generations": found, "last_over_first": ratios, "out": None}
    print(json.dumps(body["last_over_first"], indent=2))
    if args.out:
        args.out.write_text(json.dumps(body, indent=2) + "\n")


if __name__ == "__main__":
    main()
