from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from model.artifacts import chain
from model.artifacts.handover_facts import HandoverFacts
from model.artifacts.manifest import Manifest, read_manifest, verify
from model.learning.export import Export
from model.retrieval.item_segments import ItemSegments
from model.retrieval.segment import Segment
from model.training.handover import HandoverDirectory
from model.training.micro_batch import TrainerError
from tests.model.retrieval.item_segment import segment


def load(path: Path, manifest: Manifest, items: ItemSegments) -> tuple[float, int]:
    tensors = safetensors.torch.load_file(path / "weights.safetensors")
    return float(tensors["weights"][0]), manifest.facts["sequence"]


def export(weights: torch.Tensor, items: Segment | None = None) -> Export:
    return Export({"weights": weights}, items or segment([1, 2]), {})


def follow(published: HandoverDirectory, number: int, items: Segment) -> None:
    """Publish what changed since the handover before."""
    follows = number - 1 if published.items(number - 1) is not None else 0
    facts = HandoverFacts(sequence=number, follows=follows)
    published.publish(number, export(torch.zeros(1), items), facts)


def names(directory: Path, number: int) -> list[str]:
    facts = verify(directory / f"{number:08d}", "handover").facts
    return [name.removesuffix(".safetensors") for name in facts["segments"]]


def handovers(directory: Path, keep: int = 2) -> HandoverDirectory:
    return HandoverDirectory(directory, keep, load)  # type: ignore[arg-type]


def test_a_handover_is_read_back_and_old_ones_are_removed(tmp_path: Path) -> None:
    published = handovers(tmp_path)
    assert published.newest() == 0
    for number in (1, 2, 5):
        published.publish(number, export(torch.full((3,), number)), HandoverFacts(sequence=number))
    assert published.newest() == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000002", "00000005"]
    assert published.model(5) == (5.0, 5)
    assert published.model(1) is None


def test_a_number_is_never_written_twice(tmp_path: Path) -> None:
    handovers(tmp_path).publish(1, export(torch.zeros(1)), HandoverFacts(sequence=1))
    with pytest.raises(RuntimeError, match="00000001: the handover cannot be written.*exists"):
        handovers(tmp_path).publish(1, export(torch.ones(1)), HandoverFacts(sequence=1))
    assert handovers(tmp_path).model(1) == (0.0, 1)


def test_an_altered_handover_is_not_answered_from(tmp_path: Path) -> None:
    published = handovers(tmp_path)
    published.publish(1, export(torch.zeros(1)), HandoverFacts(sequence=1))
    file = tmp_path / "00000001" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    assert published.model(1) is None


def test_an_older_handover_is_answered_from_and_a_newer_one_is_not(tmp_path: Path) -> None:
    weights = export(torch.zeros(1))
    published = handovers(tmp_path)
    published.publish(1, weights, HandoverFacts(sequence=1))
    published.publish(2, weights, HandoverFacts(sequence=2, schema_version=2))
    assert HandoverFacts.of(read_manifest(tmp_path / "00000001", "handover")).schema_version == 0
    assert published.model(1) == (0.0, 1)
    assert published.model(2) is None


BASE = segment(range(100), counted=[3, 5], near={4: [1, -1, 2], 9: [0]}, seed=1)
DELTA = segment([7, 100], [7, 100], counted=[5, 100], near={4: [9], 100: [4, 5]}, seed=2)
LATER = segment([8], [8], counted=[3], near={9: [100, 1]}, seed=3)


def test_a_handover_links_what_it_follows_and_says_what_changed(tmp_path: Path) -> None:
    published = handovers(tmp_path, keep=3)
    for number, items in enumerate((BASE, DELTA, LATER), 1):
        follow(published, number, items)
    assert names(tmp_path, 1) == ["items-00000001"]
    assert names(tmp_path, 3) == ["items-00000001", "items-00000002", "items-00000003"]
    inodes = {(tmp_path / f"0000000{n}/items-00000001.safetensors").stat().st_ino for n in (1, 2)}
    assert len(inodes) == 1
    own = [HandoverFacts.of(verify(tmp_path / f"0000000{n}", "handover")) for n in (1, 2, 3)]
    assert [facts.follows for facts in own] == [0, 1, 2]
    restarted = handovers(tmp_path, keep=3)
    for items in (published.items(3), restarted.items(3)):
        assert items is not None
        assert_same(items, ItemSegments.of([BASE, DELTA, LATER]))


def test_older_handovers_go_and_the_chain_stays_readable(tmp_path: Path) -> None:
    published = handovers(tmp_path, keep=1)
    for number, items in enumerate((BASE, DELTA, LATER), 1):
        follow(published, number, items)
    assert [p.name for p in tmp_path.iterdir()] == ["00000003"]
    items = handovers(tmp_path).items(3)
    assert items is not None
    assert_same(items, ItemSegments.of([BASE, DELTA, LATER]))


def test_changes_that_outgrow_their_base_are_written_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "FLOOR", 0)
    size = BASE.nbytes
    published = handovers(tmp_path, keep=9)
    said, written = [BASE], []
    follow(published, 1, BASE)
    for number in range(2, 9):
        some = sorted({(number * 31 + k * 7) % 100 for k in range(30)})
        said.append(segment(some, some, seed=number))
        follow(published, number, said[-1])
        items = handovers(tmp_path, keep=9).items(number)
        assert items is not None
        assert_same(items, ItemSegments.of(said))
        folder = tmp_path / f"{number:08d}"
        files = [folder / f"{name}.safetensors" for name in names(tmp_path, number)]
        assert sum(file.stat().st_size for file in files) < 2.5 * size
        written.append(names(tmp_path, number) == [f"items-{number:08d}"])
    assert 0 < sum(written) < len(written)


@pytest.mark.parametrize("file", ["items-00000001.safetensors", "weights.safetensors"])
def test_behind_a_damaged_handover_everything_is_said_anew(tmp_path: Path, file: str) -> None:
    follow(handovers(tmp_path), 1, BASE)
    damaged = tmp_path / "00000001" / file
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\1")
    published = handovers(tmp_path)
    assert published.items(1) is None and published.items(77) is None
    follow(published, 2, BASE)
    assert names(tmp_path, 2) == ["items-00000002"]


def test_behind_a_refused_handover_everything_is_said_anew(tmp_path: Path) -> None:
    published = handovers(tmp_path)
    follow(published, 1, BASE)
    refused = tmp_path / "refused" / "1"
    refused.parent.mkdir()
    refused.write_text(json.dumps({"number": 1, "reason": "a test"}))
    assert published.items(1) is None
    follow(published, 2, BASE)
    assert names(tmp_path, 2) == ["items-00000002"]
    assert not refused.exists()
    follow(published, 3, DELTA)
    assert names(tmp_path, 3) == ["items-00000002", "items-00000003"]


def test_what_follows_a_handover_that_is_not_at_hand_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="follow number 4"):
        handovers(tmp_path).publish(
            5, export(torch.zeros(1), DELTA), HandoverFacts(sequence=5, follows=4)
        )
    assert list(tmp_path.iterdir()) == []


def assert_same(one: ItemSegments, other: ItemSegments) -> None:
    """Every row says the same, whatever segments it lies in."""
    rows = np.arange(len(other))
    assert np.array_equal(one.ids_N, other.ids_N)
    assert np.array_equal(one.z(rows), other.z(rows))
    assert np.array_equal(one.codes_NQ, other.codes_NQ)
    assert np.array_equal(one.events_N, other.events_N)
    assert np.array_equal(one.counts.counts_eH, other.counts.counts_eH)
    assert np.array_equal(one.counts.times_e, other.counts.times_e)
    for these, those in zip(one.features(rows), other.features(rows), strict=True):
        assert np.array_equal(these, those)
    ours, theirs = one.slots(rows), other.slots(rows)
    width = theirs.rows_EM.shape[1]
    assert np.array_equal(ours.times_E, theirs.times_E)
    assert np.array_equal(ours.rows_EM[:, :width], theirs.rows_EM)
    assert np.array_equal(ours.weights_EMH[:, :width], theirs.weights_EMH)
