"""The way of a GPU, taken on a CPU: it learns what a CPU learns, in few operations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from model import launches
from model.learning import candidates
from model.learning.config import LearnerConfig
from model.learning.errors import NotFiniteError
from model.learning.learner import Learner
from model.network import item_tower, quantizer, sparc, user_tower
from model.network.sparc_config import SparcConfig
from model.network.step_batch import Batch
from model.tables import cooccurrence
from streaming.events import UserSequence
from streaming.items import Item
from tests.model.launch_count import launches as counted
from tests.model.synthetic_stream import make_items, make_sequences

MOST_LAUNCHES = 600
"""Of a step; the batch and what else the host makes is left out."""


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(launches, "ALWAYS", True)
    monkeypatch.setattr(candidates, "UNSEEN", 64)
    torch.set_num_threads(1)
    forward = sparc.Sparc.forward

    def drawn_alike(network: sparc.Sparc, batch: Batch, *draws: torch.Generator) -> object:
        drops = torch.Generator().manual_seed(len(batch.target_B))
        return forward(network, batch, draws[0], drops)

    monkeypatch.setattr(sparc.Sparc, "forward", drawn_alike)
    yield


def settings(codes: int = 8, chunk: int = 16, step: int = 64, **other: object) -> LearnerConfig:
    """Without the towers' dropout and codes to revive, which the two ways draw elsewhere."""
    return LearnerConfig(
        model=SparcConfig(
            item_tower=item_tower.ItemTowerConfig(dimension=16),
            quantizer=quantizer.QuantizerConfig(codes=codes, dead_share=0.0),
            user_tower=user_tower.UserTowerConfig(dropout=0.0),
            neighbours=cooccurrence.CooccurrenceConfig(slots=8, answers=16),
        ),
        replay_capacity=1024,
        chunk=chunk,
        step=step,
        **other,  # type: ignore[arg-type]
    )


def learnt(
    config: LearnerConfig,
    items: list[Item],
    sequences: list[UserSequence],
    size: int,
    one_user_vector: bool = False,
) -> tuple[Learner, list[dict[str, float]]]:
    learner = Learner(config, one_user_vector=one_user_vector)
    learner.list_items(items)
    parts = (sequences[a : a + size] for a in range(0, len(sequences), size))
    return learner, [learner.learn(part) for part in parts]


@pytest.mark.parametrize(
    ("sample", "one"),
    [(16_384, False), (60, False), (16_384, True)],
    ids=["whole catalogue", "sampled", "one user vector"],
)
def test_it_learns_what_a_cpu_learns(
    sample: int, one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = make_items(200)
    sequences = make_sequences(items[:120], 500)
    config = settings(candidates=sample)
    ours, losses = learnt(config, items, sequences, 64, one)
    monkeypatch.setattr(launches, "ALWAYS", False)
    theirs, expected = learnt(config, items, sequences, 64, one)
    assert losses[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-5)
    assert losses[-1] == pytest.approx(expected[-1], rel=5e-3, abs=5e-3)
    rows_N = np.arange(len(items))
    (z_ND, codes_NQ), (other_ND, others_NQ) = ours._places(rows_N), theirs._places(rows_N)
    assert (codes_NQ[:, 0] == others_NQ[:, 0]).mean() > 0.95
    assert np.linalg.norm(z_ND - other_ND) < 0.02 * np.linalg.norm(other_ND)
    assert ours.state().meta == theirs.state().meta
    # what a checkpoint would write is the same rows
    for table, twin in zip(ours._tables.learnt_rows, theirs._tables.learnt_rows, strict=True):
        assert torch.equal(table.changes(False)["rows"], twin.changes(False)["rows"])


def test_a_state_goes_on_on_the_other_kind_of_device(monkeypatch: pytest.MonkeyPatch) -> None:
    items = make_items(80)
    sequences = make_sequences(items, 400)
    learner, _ = learnt(settings(), items, sequences[:300], 50)
    state = learner.state()
    monkeypatch.setattr(launches, "ALWAYS", False)
    results = [Learner.restore(settings(), state).learn(sequences[300:])]
    monkeypatch.setattr(launches, "ALWAYS", True)
    results.append(Learner.restore(settings(), state).learn(sequences[300:]))
    assert results[0] == pytest.approx(results[1], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", ["loss", "gradient", "weight"])
def test_what_is_not_finite_is_refused(name: str) -> None:
    items = make_items(80)
    sequences = make_sequences(items, 200)
    learner, _ = learnt(settings(), items, sequences[:150], 50)
    network = learner._sparc
    if name == "loss":
        network.binary_bias.data.fill_(float("nan"))
    elif name == "gradient":
        network.binary_bias.register_hook(lambda g: g * float("inf"))
    else:
        network.quantizer.load_QC.fill_(float("inf"))
    with pytest.raises(NotFiniteError, match=name):
        learner.learn(sequences[150:])


def launched(config: LearnerConfig, items: int, events: int) -> dict[str, int]:
    """Launches of one step by stage."""
    listed = make_items(items)
    sequences = make_sequences(listed, 2 * events + 100)
    learner, _ = learnt(config, listed, sequences[: events + 100], 100)
    found = counted(lambda: learner.learn(sequences[-events:]))
    return {stage: sum(names.values()) for stage, names in found.items()}


def test_a_step_launches_few_operations_whatever_its_size() -> None:
    small = launched(settings(codes=4, chunk=64, step=4096), 100, 60)
    larger = launched(settings(codes=32, chunk=8, step=4096), 600, 500)
    sampled = launched(settings(codes=32, chunk=8, step=4096, candidates=200), 600, 500)
    for stages in (small, larger, sampled):
        stages.pop("batch")
        stages.pop("other")
        assert sum(stages.values()) <= MOST_LAUNCHES, stages
    assert small == larger
