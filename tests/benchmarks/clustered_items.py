"""Items that lie as a residual quantizer leaves them, users among them, and a model of both.

A vector is the sum of a first-level codeword, a second-level one and a rest; `SHARES` says how much
of the variance each has. Lists differ in length as learnt ones do: the balance factor bounds them.

Shapes: N items, B users, C codes, D dimension.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.histories import History

SHARES = (0.45, 0.25, 0.30)
"""Of the variance: first level, second level, rest."""
SECOND_LEVEL = 64
SPREAD = 0.6
"""Deviation of the logarithm of a list's length."""
CHUNK = 131_072


@dataclass(frozen=True)
class Clustered:
    """N items of C codes, ids ascending."""

    item_ids_N: np.ndarray
    codes_N: np.ndarray
    second_N: np.ndarray
    vectors_ND: np.ndarray
    centroids_CD: np.ndarray

    @property
    def codes_NQ(self) -> np.ndarray:
        """Codes of both levels."""
        return np.stack([self.codes_N, self.second_N], axis=1)

    def users(self, count: int, seed: int) -> np.ndarray:
        """User vectors (B, D) float32: near the items of one to three codes, as histories are."""
        rng = np.random.default_rng(seed)
        users_BD = np.zeros((count, self.vectors_ND.shape[1]), np.float32)
        for interests in (1, 2, 3):
            some = np.arange(count) % 3 < interests
            rows = rng.integers(0, len(self.item_ids_N), some.sum())
            users_BD[some] += self.vectors_ND[rows]
        return users_BD / np.linalg.norm(users_BD, axis=1, keepdims=True)


def clustered(items: int, codes: int, dimension: int, seed: int) -> Clustered:
    """Draw items."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
    centroids_CD = draw(codes, dimension) * np.sqrt(SHARES[0])
    second_SD = draw(SECOND_LEVEL, dimension) * np.sqrt(SHARES[1])
    weights_C = np.exp(SPREAD * rng.standard_normal(codes))
    codes_N = rng.choice(codes, items, p=weights_C / weights_C.sum())
    second_N = rng.integers(0, SECOND_LEVEL, items)
    vectors_ND = np.empty((items, dimension), np.float32)
    for a in range(0, items, CHUNK):
        here = slice(a, a + CHUNK)
        rest = draw(len(codes_N[here]), dimension) * np.sqrt(SHARES[2])
        vectors_ND[here] = centroids_CD[codes_N[here]] + second_SD[second_N[here]] + rest
    vectors_ND /= np.sqrt(dimension)
    return Clustered(
        np.arange(1, items + 1), codes_N, second_N, vectors_ND, centroids_CD / np.sqrt(dimension)
    )


class ClusteredModel:
    """What soft search asks of a model; a history holds the number of a user's vector alone.

    The same user vector for every code, so that every index can be asked the same question.
    `users_BD`, whom the histories name, is each thread's own.
    """

    def __init__(self, centroids_CD: np.ndarray) -> None:
        self.first_level_codes, self.dimension = centroids_CD.shape
        self._centroids_CD = centroids_CD
        self._asking = threading.local()

    def ask_for(self, users_BD: np.ndarray) -> None:
        """Histories that this thread asks about name rows of these."""
        self._asking.users_BD = users_BD

    def encode(self, histories: Sequence[History], now_ms: np.ndarray) -> np.ndarray:
        if len(histories) == 1:
            return self._asking.users_BD[histories[0].items]
        return self._asking.users_BD[[history.items[0] for history in histories]]

    def log_interests(self, encoded: np.ndarray) -> np.ndarray:
        logits = encoded @ self._centroids_CD.T
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def user_vectors(self, encoded: np.ndarray, codes_BK: np.ndarray) -> np.ndarray:
        return encoded[:, None].repeat(codes_BK.shape[1], axis=1)

    def near(self, encoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.empty((len(encoded), 0), np.int64), np.empty((len(encoded), 0), np.float32)

    def prior(self) -> tuple[np.ndarray, np.ndarray]:
        return np.empty(0, np.int64), np.empty((0, 1), np.float32)

    def prior_weights(self, encoded: np.ndarray) -> np.ndarray:
        return np.ones((len(encoded), 1), np.float32)

    def hot_items(self, count: int) -> np.ndarray:
        return np.empty(0, np.int64)
