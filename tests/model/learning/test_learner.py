from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.histories import History
from model.learning import candidates
from model.learning.config import LearnerConfig
from model.learning.errors import LearnerError
from model.learning.learner import Learner
from model.learning.learner_state import LearnerState
from model.network import item_tower, quantizer
from model.network.sparc_config import SparcConfig
from model.tables import cooccurrence
from model.tables.touched_rows import PUBLICATION
from streaming.items import Item
from tests.model.dense_search import every_score
from tests.model.synthetic_stream import DAY_MS, make_items, make_sequences

SMALL = LearnerConfig(
    model=SparcConfig(
        item_tower=item_tower.ItemTowerConfig(dimension=16),
        quantizer=quantizer.QuantizerConfig(codes=8),
        neighbours=cooccurrence.CooccurrenceConfig(slots=8, answers=16),
    ),
    replay_capacity=512,
    chunk=16,
    step=64,
    session_dropout=0.5,
)


def batches(sequences: list, size: int = 64) -> list[list]:
    return [sequences[a : a + size] for a in range(0, len(sequences), size)]


def test_a_restored_learner_continues_bit_for_bit(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    items = make_items(80)
    stream = batches(make_sequences(items, 1200))
    learner = Learner(SMALL)
    learner.list_items(items[:40])
    kept = Kept(tmp_path)
    for number, batch in enumerate(stream[:8]):
        learner.list_items(items[40 + number : 48 + number])
        learner.learn(batch)
        kept.keep(learner.state(whole=not kept.rows))
    restored = Learner.restore(SMALL, kept.state())
    for each in (learner, restored):
        each.list_items(items[60:])
        for batch in stream[8:]:
            each.learn(batch)
    kept.keep(restored.state(whole=False))
    assert_same(learner, restored)
    assert_same(learner, Learner.restore(SMALL, kept.state()))


def test_what_is_kept_of_a_micro_batch_does_not_grow_with_the_catalogue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor with users or with what was learnt before."""
    monkeypatch.setattr(candidates, "UNSEEN", 64)  # less than there are
    sizes = []
    for count in (600, 3000):
        items = make_items(count)
        learner = Learner(dataclasses.replace(SMALL, candidates=50))
        learner.list_items(items)
        stream = batches(make_sequences(items[:100], 320))
        for batch in stream[:-1] * (count // 600):
            learner.learn(batch)
        tables = learner._tables
        for table in (tables.ids, tables.words, tables.categories, tables.neighbours):
            table.touched.take(PUBLICATION)
        for counts in (tables.popularity, tables.code_popularity):
            counts.touched.take(PUBLICATION)
        tables.catalogue.touched.take(PUBLICATION)
        whole = learner.state()
        learner.learn(stream[-1])
        changed = learner.state(whole=False)
        sizes.append(
            [
                sum(x.nbytes for x in tensors.values())
                for tensors in (*whole.rows, *changed.rows, changed.dense)
            ]
        )
    (whole, changed, dense), (more, still, same) = sizes
    assert more > 2 * whole
    assert still < 1.3 * changed
    assert dense == same


class Kept:
    """A chain of states as files hold them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rows: list[Path] = []

    def keep(self, state: LearnerState) -> None:
        save_file(state.dense, self.directory / "dense")
        (rows,) = state.rows
        self.rows.append(self.directory / str(len(self.rows)))
        save_file(rows, self.rows[-1])
        (self.directory / "meta").write_text(json.dumps(state.meta))

    def state(self) -> LearnerState:
        meta = json.loads((self.directory / "meta").read_text())
        return LearnerState(load_file(self.directory / "dense"), map(load_file, self.rows), meta)


def everything(learner: Learner) -> dict[str, torch.Tensor]:
    state = learner.state()
    (rows,) = state.rows
    return state.dense | rows


def assert_same(one: Learner, other: Learner) -> None:
    assert one.state().meta == other.state().meta
    first, second = everything(one), everything(other)
    assert first.keys() == second.keys()
    assert [n for n, value in first.items() if not torch.equal(value, second[n])] == []


def test_the_same_stream_gives_the_same_bits_and_another_seed_does_not() -> None:
    items = make_items(60)
    stream = batches(make_sequences(items, 400))

    def run(seed: int) -> dict[str, torch.Tensor]:
        learner = Learner(dataclasses.replace(SMALL, seed=seed))
        learner.list_items(items)
        for batch in stream:
            learner.learn(batch)
        return everything(learner)

    first, second, other = run(1), run(1), run(2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["sparc.quantizer.codebooks_QCD"],
                           other["sparc.quantizer.codebooks_QCD"])  # fmt: skip


def test_it_learns_who_likes_what() -> None:
    items = make_items(100)
    sequences = make_sequences(items, 3000)
    learner = Learner(SMALL)
    learner.list_items(items)
    for batch in batches(sequences[:2800]):
        losses = learner.learn(batch)
    assert set(losses) == {
        "items", "interests", "distillation", "binary", "quantization", "shuffled_code", "contrast",
        "reconstruction_contrast", "loss",
    }  # fmt: skip
    model = learner.retrieval_model()
    hits = 0
    category = {i.item_id: i.category for i in items}
    for s in sequences[2800:]:
        history = History(s.history_items, s.history_times)
        scores = every_score(model, [history], s.event_time)[0]
        best = model.item_ids_N[np.argsort(-scores)[:10]]
        hits += np.mean([category[int(i)] == str(1 + s.user_id % 5) for i in best]) > 0.5
    assert hits / 200 > 0.8


def test_z_of_a_given_length_is_that_long_in_each_member_wherever_it_is_made() -> None:
    tower = dataclasses.replace(SMALL.model.item_tower, length=2.0)
    config = dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, item_tower=tower))
    items = make_items(60)
    learner = Learner(config)
    learner.list_items(items)
    for batch in batches(make_sequences(items, 256)):
        learner.learn(batch)
    model = learner.retrieval_model()
    assert np.allclose(np.linalg.norm(model.vectors_ND[:, :8], axis=1), 2, atol=1e-5)
    assert np.allclose(np.linalg.norm(model.vectors_ND[:, 8:16], axis=1), 2, atol=1e-5)
    assert np.allclose(model.embed(items)[0], model.vectors_ND, atol=1e-5)


def test_towers_that_never_see_the_evidence_leave_its_weights_as_they_start() -> None:
    parts = dataclasses.replace(
        SMALL.model, evidence_dropout=1.0, popularity_start=0.5, neighbour_start=2.0
    )
    items = make_items(60)
    learner = Learner(dataclasses.replace(SMALL, model=parts))
    learner.list_items(items)
    sequences = make_sequences(items, 512)
    for batch in batches(sequences):
        learner.learn(batch)
    tensors = learner.export().tensors
    places = parts.popularity_features
    for member in range(parts.members):
        assert (tensors[f"sparc.evidence.{member}.bias"][:places] == 0.5).all()
        assert (tensors[f"sparc.evidence.{member}.bias"][places:] == 2).all()
        assert (tensors[f"sparc.evidence.{member}.weight"] == 0).all()
    found = learner.retrieval_model().encode(
        [History(s.history_items, s.history_times) for s in sequences[-8:]],
        np.array([s.event_time for s in sequences[-8:]]),
    )
    assert (found.near_scores_BM > 0).any()


def test_items_without_title_or_category_are_learnt() -> None:
    items = make_items(80, titles=False)
    learner = Learner(SMALL)
    learner.list_items(items)
    for batch in batches(make_sequences(items, 600)):
        learner.learn(batch)
    health = learner.codebook_health()
    assert health["codes_in_use"] > 0.95
    vectors, codes = learner.retrieval_model().embed([Item(5)])
    assert np.isfinite(vectors).all() and codes.shape == (1, 3)


def test_an_unlisted_target_is_listed_on_the_way_and_unknown_history_is_ignored() -> None:
    items = make_items(40)
    learner = Learner(SMALL)
    learner.list_items(items[:30])
    learner.learn(make_sequences(items, 64))
    assert set(learner.retrieval_model().item_ids_N) >= {i.item_id for i in items[:30]}
    model = learner.retrieval_model()
    now = np.array([2000 * DAY_MS])
    known = model.encode([History([items[0].item_id], [999 * DAY_MS])], now)
    padded = model.encode([History([77, items[0].item_id], [1, 999 * DAY_MS])], now)
    assert np.array_equal(model.log_interests(known), model.log_interests(padded))


def test_drift_starts_anew_with_each_publication() -> None:
    items = make_items(60)
    learner = Learner(SMALL)
    learner.list_items(items)
    stream = batches(make_sequences(items, 600))
    for batch in stream[:5]:
        learner.learn(batch)
    learner.mark_published()
    assert learner.drift().max() == 0
    for batch in stream[5:]:
        learner.learn(batch)
    drift = learner.drift()
    assert drift.shape == (8,) and drift.dtype == np.float32 and 0 < drift.max() < 10


def test_a_candidate_sample_is_used_when_the_catalogue_is_large() -> None:
    items = make_items(300)
    learner = Learner(dataclasses.replace(SMALL, candidates=50))
    learner.list_items(items)
    for batch in batches(make_sequences(items, 600)):
        assert np.isfinite(learner.learn(batch)["loss"])


def test_a_state_of_another_architecture_is_refused() -> None:
    learner = Learner(SMALL)
    learner.list_items(make_items(20))
    state = learner.state()
    other = dataclasses.replace(
        SMALL, model=dataclasses.replace(SMALL.model, quantizer=quantizer.QuantizerConfig(codes=16))
    )
    with pytest.raises(LearnerError, match="does not fit"):
        Learner.restore(other, state)
