from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from model.artifacts.handover_facts import HandoverFacts
from model.artifacts.manifest import Manifest, read_manifest
from model.learning.export import Export
from model.training.handover import HandoverDirectory
from tests.model.retrieval.item_segment import segment


def load(path: Path, manifest: Manifest) -> tuple[float, int]:
    tensors = safetensors.torch.load_file(path / "weights.safetensors")
    return float(tensors["weights"][0]), manifest.facts["sequence"]


def export(weights: torch.Tensor) -> Export:
    return Export({"weights": weights}, segment([1, 2]), {})


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
