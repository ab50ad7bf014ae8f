"""Each control changes what its row says, and nothing beside it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from indexer.evaluation.ablations import TRAINED
from indexer.evaluation.online_sparc import OnlineSparc, OnlineSparcConfig
from indexer.indexing.config import IndexerConfig
from indexer.search.config import SearchConfig
from model.evaluation.protocol import EventLog, canonical_order, split
from model.histories import History
from model.learning.config import LearnerConfig
from model.learning.learner import Learner
from model.network.item_tower import ItemTowerConfig
from model.network.quantizer import QuantizerConfig
from model.network.sparc_config import LossWeights, SparcConfig
from model.retrieval.retrieval_model import RetrievalModel
from model.tables.cooccurrence import CooccurrenceConfig
from tests.model.synthetic_stream import make_items, make_sequences

DIMENSION, CODES = 16, 8
ITEMS = make_items(120)
CONFIG = OnlineSparcConfig(
    learner=LearnerConfig(
        model=SparcConfig(
            item_tower=ItemTowerConfig(dimension=DIMENSION),
            quantizer=QuantizerConfig(codes=CODES),
            neighbours=CooccurrenceConfig(slots=8, answers=16),
        ),
        chunk=8,
    ),
    batch_size=64,
    replay_epochs=0.5,
)
HISTORIES = [
    History([ITEMS[3].item_id, ITEMS[8].item_id, ITEMS[50].item_id], [0, 1, 2]),
    History([ITEMS[17].item_id], [1]),
]


def small_log() -> EventLog:
    sequences = make_sequences(ITEMS, 400)
    return split(
        canonical_order(
            np.array([s.user_id for s in sequences]),
            np.array([s.target for s in sequences]),
            np.array([s.event_time // 1000 for s in sequences]),
        )
    )


def warmed_up(name: str = "sparc") -> OnlineSparc:
    make = TRAINED.get(name, OnlineSparc)
    model = make(ITEMS, CONFIG, IndexerConfig(), SearchConfig(codes=3))
    model.warm_up(small_log().warm_up())
    return model


@pytest.fixture(scope="module")
def full() -> OnlineSparc:
    return warmed_up()


@pytest.fixture(scope="module")
def one_vector() -> OnlineSparc:
    return warmed_up("one_user_vector")


def user_vectors(model: RetrievalModel, histories: list[History]) -> np.ndarray:
    """What the towers give for every code: (B, C, D), without popularity and neighbours."""
    every_BC = np.broadcast_to(np.arange(CODES), (len(histories), CODES))
    encoded = model.encode(histories, np.full(len(histories), 3, dtype=np.int64))
    return model.user_vectors(encoded, every_BC)[:, :, :DIMENSION]


def codebook(model: OnlineSparc) -> dict[str, torch.Tensor]:
    state = model.learner.export().tensors
    return {n: v for n, v in state.items() if "quantizer." in n and "decoder" not in n}


def test_a_frozen_codebook_stays_while_the_rest_learns() -> None:
    model = warmed_up("frozen_codebook")
    before, weights = codebook(model), model.learner.export()
    for day in list(small_log().days())[:5]:
        model.learn(day.events)
    after, learnt = codebook(model), model.learner.export()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not np.array_equal(weights.segment.z_nD, learnt.segment.z_nD)
    for name in ("sparc.user_towers.0.query.weight", "sparc.quantizer.decoder.weight"):
        assert not torch.equal(weights.tensors[name], learnt.tensors[name]), name


def test_without_the_control_the_codebook_moves() -> None:
    model = warmed_up()
    before = codebook(model)
    model.learn(next(iter(small_log().days())).events)
    name = "sparc.quantizer.codebooks_QCD"
    assert not torch.equal(before[name], codebook(model)[name])


def test_one_user_vector_is_the_same_for_every_code(
    full: OnlineSparc, one_vector: OnlineSparc
) -> None:
    for histories in (HISTORIES, HISTORIES[:1]):  # a batch, and one alone, which is answered apart
        for model, same in ((full, False), (one_vector, True)):
            vectors_BCD = user_vectors(model.learner.retrieval_model(), histories)
            assert (np.ptp(vectors_BCD, axis=1).max() == 0) == same


def test_one_user_vector_still_pays_attention_to_the_history(one_vector: OnlineSparc) -> None:
    export = one_vector.learner.export()
    tensors = export.tensors
    gains = [n for n in tensors if n.endswith("context_gain_D")]
    assert gains
    for name in gains:
        assert tensors[name].abs().max() > 0, "what the attention reads has never been learnt from"
    without = tensors | {name: torch.zeros_like(tensors[name]) for name in gains}
    for histories in (HISTORIES, HISTORIES[:1]):
        attending = user_vectors(export.model(), histories)
        other = export._replace(tensors=without).model()
        assert not np.allclose(attending, user_vectors(other, histories), atol=1e-4)


def test_one_user_vector_is_answered_alike_alone_and_in_a_batch(one_vector: OnlineSparc) -> None:
    model = one_vector.learner.retrieval_model()
    for number, history in enumerate(HISTORIES):
        alone, batch = user_vectors(model, [history])[0], user_vectors(model, HISTORIES)[number]
        assert np.allclose(alone, batch, atol=1e-5)


def test_with_one_user_vector_the_head_still_reads_the_history_for_each_code(
    one_vector: OnlineSparc,
) -> None:
    export = one_vector.learner.export()
    now = np.full(len(HISTORIES), 3, dtype=np.int64)
    name = "sparc.user_towers.0.query.weight"
    changed = export.tensors | {name: 100 * export.tensors[name]}
    one, other = export.model(), export._replace(tensors=changed).model()

    def said(model: RetrievalModel) -> np.ndarray:
        return model.log_interests(model.encode(HISTORIES, now))

    assert not np.allclose(said(one), said(other), atol=1e-3)
    assert np.array_equal(user_vectors(one, HISTORIES), user_vectors(other, HISTORIES))


@pytest.mark.parametrize("one_user_vector", [False, True])
def test_right_against_shuffled_code_teaches_nothing_where_they_have_one_vector(
    one_user_vector: bool,
) -> None:
    silent = {part.name: 0.0 for part in dataclasses.fields(LossWeights)}
    weights = LossWeights(**silent | {"shuffled_code": 1.0})
    model = dataclasses.replace(CONFIG.learner.model, losses=weights)
    config = dataclasses.replace(CONFIG.learner, model=model)
    learner = Learner(config, one_user_vector=one_user_vector)
    learner.list_items(ITEMS)
    before = learner.export().tensors
    for _ in range(8):  # before the first step no context has any gain, in any model
        losses = learner.learn(make_sequences(ITEMS, 100), 0.0)
    after = learner.export().tensors
    towers = [name for name in before if name.startswith("sparc.user_towers.")]
    assert all(torch.equal(before[n], after[n]) for n in towers) == one_user_vector
    assert (losses["shuffled_code"] == pytest.approx(math.log(2), abs=1e-7)) == one_user_vector


def test_items_without_content_are_known_by_id_alone() -> None:
    model = warmed_up("no_content")
    retrieval = model.learner.retrieval_model()
    assert set(retrieval.item_ids_N.tolist()) == {item.item_id for item in ITEMS}
    assert model.learner._tables.catalogue.words_NT.max() == 0
