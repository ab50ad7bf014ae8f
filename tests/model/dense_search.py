"""The ranking that the indexes must give, by brute force over the whole catalogue.

Shapes: B queries, N items, C codes, K answers, D dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.evaluation.online_model import Answers
from model.evaluation.protocol import LIST_LENGTH
from model.histories import History
from model.retrieval.retrieval_model import RetrievalModel


def every_score(
    model: RetrievalModel, histories: Sequence[History], now_ms: int, codes: int | None = None
) -> np.ndarray:
    """The score of every item: (B, N) float32, -inf outside the most probable `codes`."""
    encoded = model.encode(histories, np.full(len(histories), now_ms, dtype=np.int64))
    log_p_BC = model.log_interests(encoded)
    every_BC = np.broadcast_to(np.arange(model.first_level_codes), log_p_BC.shape)
    users_BCD = model.user_vectors(encoded, every_BC)
    item_code_N = model.codes_NQ[:, 0]
    scores_BN = np.einsum("bnd,nd->bn", users_BCD[:, item_code_N], model.vectors_ND)
    prior_ids, prior_nP = model.prior()
    scores_BN[:, model.rows(prior_ids)] += model.prior_weights(encoded) @ prior_nP.T
    for scores_N, ids_M, adds_M in zip(scores_BN, *model.near(encoded), strict=True):
        scores_N[model.rows(ids_M[ids_M >= 0])] += adds_M[ids_M >= 0]
    ranked_BC = np.argsort(-log_p_BC, axis=1, kind="stable")
    chosen_BC = np.zeros(log_p_BC.shape, dtype=bool)
    np.put_along_axis(chosen_BC, ranked_BC[:, :codes], True, axis=1)
    return np.where(chosen_BC[:, item_code_N], scores_BN, -np.inf)


def best(model: RetrievalModel, histories: Sequence[History], now_ms: int, codes: int) -> Answers:
    """The best items outside the histories."""
    scores_BN = every_score(model, histories, now_ms, codes)
    for b, history in enumerate(histories):
        scores_BN[b, model.rows(np.asarray(history.items, dtype=np.int64))] = -np.inf
    top_BK = np.argsort(-scores_BN, axis=1, kind="stable")[:, :LIST_LENGTH]
    return Answers(model.item_ids_N[top_BK], np.take_along_axis(scores_BN, top_BK, axis=1))
