from __future__ import annotations

import numpy as np
import torch

from model.evaluation import controls
from model.evaluation.prequential_run import OnlineSparc
from model.histories import History
from tests.model.evaluation.test_prequential_run import CONFIG, ITEMS, small_log


def warmed_up(one_vector: bool = False) -> OnlineSparc:
    model = OnlineSparc(ITEMS, CONFIG)
    if one_vector:
        controls.one_user_vector(model.learner)
    model.warm_up(small_log(400).warm_up())
    return model


def codebook(model: OnlineSparc) -> dict[str, torch.Tensor]:
    state, _ = model.learner.export()
    return {n: v for n, v in state.items() if "quantizer." in n and "decoder" not in n}


def test_a_frozen_codebook_stays_while_the_rest_learns() -> None:
    model, log = warmed_up(), small_log(400)
    controls.freeze_codebook(model.learner)
    before, weights = codebook(model), model.learner.export()[0]
    for day in list(log.days())[:5]:
        model.learn(day.events)
    after, learnt = codebook(model), model.learner.export()[0]
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name in (
        "items.z_ND",
        "sparc.user_towers.0.query.weight",
        "sparc.quantizer.decoder.weight",
    ):
        assert not torch.equal(weights[name], learnt[name]), name


def test_without_the_control_the_codebook_moves() -> None:
    model = warmed_up()
    before = codebook(model)
    model.learn(next(iter(small_log(400).days())).events)
    after = codebook(model)
    assert not torch.equal(before["sparc.quantizer.codebooks_QCD"],
                           after["sparc.quantizer.codebooks_QCD"])  # fmt: skip


def test_one_user_vector_is_the_same_for_every_code() -> None:
    dimension = CONFIG.learner.model.item_tower.dimension
    history = [History([ITEMS[3].item_id, ITEMS[8].item_id], [0, 1])]
    every = np.arange(CONFIG.learner.model.quantizer.codes)[None]
    for one_vector in (True, False):
        model = warmed_up(one_vector).learner.retrieval_model()
        if one_vector:
            controls.one_user_vector(model)
        vectors_CD = model.user_vectors(model.encode(history, np.array([2])), every)[0]
        same = np.ptp(vectors_CD[:, :dimension], axis=0).max() == 0
        assert same == one_vector
