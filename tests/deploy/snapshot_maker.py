"""Real snapshots, small: a learner trained for an instant, its lists, published by the indexer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from indexer.building.build import build
from indexer.building.placing import ListedItem, place
from indexer.snapshots.item_table import Rows
from indexer.snapshots.pointer import Appended, Pointer, snapshot_path, write_pointer
from indexer.snapshots.published import record
from indexer.snapshots.snapshot_facts import SnapshotFacts
from indexer.snapshots.snapshot_reading import load_snapshot
from indexer.snapshots.snapshot_writing import Contents, Source, write_appended, write_snapshot
from model.artifacts.handover_facts import HandoverFacts
from model.artifacts.manifest import Manifest, read_manifest, sha256
from model.learning.config import LearnerConfig
from model.learning.learner import Learner
from model.network import quantizer
from model.network.sparc_config import SparcConfig
from streaming.durable_files import PARTIAL
from streaming.events import UserSequence
from streaming.items import Item

START_MS = 1_400_000_000_000
ITEMS = 60


def items(count: int = ITEMS) -> list[Item]:
    """Items 1..count with titles."""
    return [
        Item(i, f"Item {i} of kind {i % 7}", f"kind {i % 7}", f"B{i:09d}", START_MS)
        for i in range(1, count + 1)
    ]


def clicks(users: int = 20, each: int = 6) -> list[UserSequence]:
    """Sequences of users who like one kind of item each."""
    sequences = []
    for user in range(1, users + 1):
        chosen = [1 + (user + 7 * step) % ITEMS for step in range(each)]
        times = [START_MS + (user * each + step) * 60_000 for step in range(each)]
        for at in range(each):
            sequences.append(
                UserSequence(
                    f"{user}-{at}", user, times[at], at + 1, chosen[:at], times[:at], chosen[at]
                )
            )
    return sorted(sequences, key=lambda s: s.event_time)


def small_learner(seed: int = 0) -> Learner:
    """A model of 8 codes that trains in a moment."""
    model = SparcConfig(quantizer=quantizer.QuantizerConfig(codes=8))
    return Learner(LearnerConfig(seed=seed, model=model, replay=0.0, candidates=64))


def make_snapshots(data_dir: Path, versions: int, seed: int = 0) -> None:
    """Train on a few clicks more for each version, and publish it."""
    learner = small_learner(seed)
    learner.list_items(items())
    trained = 0
    for version in range(1, versions + 1):
        batch = clicks()[trained : trained + 24]
        learner.learn(batch)
        trained += len(batch)
        facts = {
            "sequence": version,
            "offsets": {"sequences": {"0": trained}, "items": {"0": ITEMS}},
            "event_time_range": [START_MS, batch[-1].event_time],
            "trained_events": trained,
            "micro_batches": version,
            "reason": "interval",
            "metrics": {"recall_at_50": 0.01 * version, "codes_in_use": 8},
            "version": version,
            "parent": version - 1 or None,
            "codebook_generation": 1,
            "rebuilt_codes": [0, 3],
            "reasons": {"0": ["drift"], "3": ["changes", "drift"]},
            "codes": 8,
            "shared_codes": 6,
            "moved_items": 9,
            "changes": {
                "items": 59,
                "new_items": 1,
                "moved_items": 4,
                "moves": [[2, 3, 4]],
                "examples": [["Soap", 2, 3]],
            },
            "catalogue_items": ITEMS,
            "indexed_items": ITEMS,
        }
        publish(data_dir, facts, learner, items())


def publish(data_dir: Path, facts: dict[str, Any], learner: Learner, listed: list[Item]) -> None:
    """Write what a learner knows as a snapshot, as the indexer does; no pointer moves."""
    export = learner.export()
    model = export.model()
    weights, segment = data_dir / "weights.safetensors", data_dir / "items-00000001.safetensors"
    save_file(export.tensors, weights)
    export.segment.save(segment)
    made = build(model, place(model, []), None, drift_threshold=0.1)
    described = {"model": export.facts, "segments": [segment.name], "sizes": made.sizes_C.tolist()}
    contents = Contents(
        handed_over=[Source(path, sha256(path)) for path in (weights, segment)],
        learnt=made.rebuild.lists,
        rebuilt=made.rebuild.reasons,
        absent=made.absent,
        placed=made.placed,
        listed=Rows.made(listed, np.full(len(listed), START_MS)),
    )
    write_snapshot(data_dir, SnapshotFacts.after(HandoverFacts(), **facts | described), contents)
    weights.unlink()
    segment.unlink()


class Shelf:
    """A data directory into which snapshots that were made before are published one by one."""

    def __init__(self, data_dir: Path, made: Path) -> None:
        self.data_dir = data_dir
        self._made = made

    def publish(self, version: int, *, move_pointer: bool = True) -> Manifest:
        """As the indexer does: the directory appears, then the pointer moves."""
        destination = self.data_dir / snapshot_path(version)
        partial = destination.with_name(f"{PARTIAL}{version}")
        shutil.copytree(self._made / snapshot_path(version), partial)
        manifest = read_manifest(partial, "snapshot")
        record(self.data_dir, version, manifest.digest)
        partial.rename(destination)
        if move_pointer:
            self.point_at(version)
        return manifest

    def point_at(self, version: int, appended: tuple[Appended, ...] = ()) -> None:
        """Move the pointer."""
        path = snapshot_path(version)
        digest = read_manifest(self.data_dir / path, "snapshot").digest
        write_pointer(self.data_dir, Pointer(version, path, digest, appended, START_MS))

    def append(self, version: int, new: list[Item]) -> None:
        """Add items to a published version, and have the pointer name them."""
        model = load_snapshot(self.data_dir / snapshot_path(version)).model
        placed = place(model, [ListedItem(item, START_MS, 0, 0) for item in new])
        appended = write_appended(self.data_dir, version, 1, {0: ITEMS + len(new)}, placed)
        self.point_at(version, (appended,))
