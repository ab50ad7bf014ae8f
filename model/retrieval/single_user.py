"""The towers and the interest head for one history, in numpy.

A service asks for one user at a time, and then a call of torch costs several times what there is
to compute. The formulas are those of `user_tower`, `interest_head` and `sparc`, which a test
compares; training and batches go through these.

Shapes: M members, L history length, E = L + 1 tokens, d dimension of a member, D = M d, A heads,
C codes, P popularity features, H neighbour half-lives, K neighbours, F kinds of evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf
from torch import Tensor, nn

from model.network.sparc import OWN_DECAY, Sparc
from model.network.user_tower import AGES, HOUR_MS, UserTower

Floats = NDArray[np.float32]


class UserAnswers(NamedTuple):
    """What the model says of one history, all float32.

    Attributes:
        log_interests_C: log p(c | u).
        popularity_weights_P: user part of the popularity features.
        near_K: what each neighbour adds to its item's score.
        context_MCd: what each member's attention read for each code.
        base_M1d: each member's user vector without it.
    """

    log_interests_C: Floats
    popularity_weights_P: Floats
    near_K: Floats
    context_MCd: Floats
    base_M1d: Floats


class _Linear:
    """Linear maps of the members, (M, in, out) and (M, 1, out)."""

    def __init__(self, maps: Sequence[nn.Module]) -> None:
        linears = cast(Sequence[nn.Linear], maps)
        self.weight = np.stack([_numpy(one.weight).T for one in linears])
        self.bias = np.stack([_numpy(one.bias)[None] for one in linears])

    def __call__(self, x: Floats) -> Floats:
        return x @ self.weight + self.bias


class _Norm:
    """LayerNorms of the members, over the last dimension of (M, n, d)."""

    def __init__(self, norms: Sequence[nn.LayerNorm]) -> None:
        self.weight = np.stack([_numpy(one.weight)[None] for one in norms])
        self.bias = np.stack([_numpy(one.bias)[None] for one in norms])
        self.epsilon = np.float32(norms[0].eps)

    def __call__(self, x: Floats) -> Floats:
        x = x - x.mean(axis=-1, keepdims=True)
        variance = np.einsum("...d,...d->...", x, x)[..., None] / np.float32(x.shape[-1])
        x *= 1 / np.sqrt(variance + self.epsilon)
        return x * self.weight + self.bias


class SingleUser:
    """Answers of one `Sparc` in eval mode, for one history at a time; shared by threads.

    Args:
        sparc: whose weights are copied.
        code_popularity_CP: popularity features of the codes.
    """

    def __init__(self, sparc: Sparc, code_popularity_CP: Floats) -> None:
        towers = sparc.towers
        views = sparc.code_views()
        self._codes = len(code_popularity_CP)
        self._one_user_vector = sparc.one_user_vector
        self._dimension = towers[0].start_D.shape[0]
        self._popularity_features = sparc.config.popularity_features

        def stacked(part: Callable[[UserTower], Tensor]) -> Floats:
            return np.stack([_numpy(part(tower)) for tower in towers])

        self._start_M1d = stacked(lambda t: t.start_D)[:, None]
        self._content = [_Linear([t.content[i] for t in towers]) for i in (0, 2)]
        self._age_Mga = stacked(lambda t: t.age.weight)
        self._rank_Mla = stacked(lambda t: t.rank.weight)
        self._mix = [_Linear([t.mix[i] for t in towers]) for i in (0, 3)]
        self._norm = _Norm([t.norm for t in towers])
        self._keys = _Linear([t.keys for t in towers])
        self._query_MCd = np.stack([_numpy(query) for query in views.queries])
        self._gain_M1d = stacked(lambda t: t.context_gain_D)[:, None]
        self._output_norm = _Norm([t.output_norm for t in towers])
        self._evidence = _Linear(list(sparc.evidence))
        head = sparc.interest_head
        self._interest = [_Linear([head.interest[i]]) for i in (0, 2)]
        self._interest_norm = _Norm([cast(nn.LayerNorm, head.interest[3])])
        self._head_evidence = _Linear([head.evidence])
        self._read_CD = _numpy(views.read_CD)
        self._centroid_DC = np.ascontiguousarray(_numpy(views.centroid_CD).T)
        self._code_popularity_CP = code_popularity_CP

    def answers(
        self,
        z_LD: Floats,
        age_L: Floats,
        history_code_L: NDArray[np.int64],
        near_code_K: NDArray[np.int64],
        near_score_KH: Floats,
    ) -> UserAnswers:
        """What the model says of a history, oldest event first.

        Args:
            z_LD: z of the events' items.
            age_L: in milliseconds.
            history_code_L: first-level codes of the items, -1 for none.
            near_code_K: those of the neighbours, -1 for none.
            near_score_KH: the neighbours' scores.
        """
        members, d = len(self._start_M1d), self._dimension
        z_MLd = z_LD.reshape(-1, members, d).swapaxes(0, 1)
        tokens_MEd = np.concatenate([self._start_M1d, z_MLd], axis=1)
        bias_MEa = self._bias(age_L)
        base_M1d = self._base(tokens_MEd, bias_MEa[..., :-1])
        state_M1d = self._norm(base_M1d)
        keys_MEd = self._keys(tokens_MEd)
        logits_MCE = self._query_MCd @ keys_MEd.swapaxes(1, 2)
        logits_MCE += bias_MEa[..., -1][:, None]
        context_MCd = _softmax(logits_MCE, axis=2) @ tokens_MEd
        weights_W = self._evidence(state_M1d).mean(axis=(0, 1))
        p = self._popularity_features
        near_KH = np.log1p(4 * near_score_KH)
        evidence_CF = np.hstack(
            [
                self._code_popularity_CP,
                np.log1p(4 * self._mass(near_code_K, near_score_KH)),
                np.log1p(4 * self._mass(history_code_L, _decay(len(age_L)))),
            ]
        )
        context_CD = context_MCd[:, : self._codes].swapaxes(0, 1).reshape(self._codes, -1)
        return UserAnswers(
            self._log_interests(state_M1d.reshape(1, 1, -1), context_CD, evidence_CF),
            weights_W[:p],
            near_KH @ weights_W[p:],
            context_MCd,
            base_M1d,
        )

    def vectors(self, said: UserAnswers, code_K: NDArray[np.int64]) -> Floats:
        """The user vectors of some codes, the members' mean: (K, D)."""
        if self._one_user_vector:
            code_K = np.full(len(code_K), self._codes)  # its query is the last
        read_MKd = said.context_MCd[:, code_K]
        users_MKd = self._output_norm(read_MKd * self._gain_M1d + said.base_M1d)
        members, _, width = users_MKd.shape
        return users_MKd.swapaxes(0, 1).reshape(len(code_K), members * width) / np.float32(members)

    def _bias(self, age_L: Floats) -> Floats:
        """What place and age add to the attention of each head and of the codes: (M, E, A + 1)."""
        octaves_L = np.log2(1 + np.maximum(age_L, 0) / np.float32(HOUR_MS))
        bucket_L = np.minimum((2 * octaves_L).astype(np.int64), AGES - 1)
        events_MLa = self._age_Mga[:, bucket_L]
        events_MLa += self._rank_Mla[:, : len(age_L)][:, ::-1]
        return np.concatenate([self._rank_Mla[:, -1:], events_MLa], axis=1)

    def _base(self, tokens_MEd: Floats, bias_MEA: Floats) -> Floats:
        """Code-independent user vectors, (M, 1, d)."""
        first, second = self._content
        weights_MEA = _softmax(second(np.tanh(first(tokens_MEd))) + bias_MEA, axis=1)
        pooled_MAd = weights_MEA.swapaxes(1, 2) @ tokens_MEd
        inner, outer = self._mix
        mixed_M1d = outer(_gelu(inner(pooled_MAd.reshape(len(pooled_MAd), 1, -1))))
        return pooled_MAd.mean(axis=1, keepdims=True) + mixed_M1d

    def _log_interests(self, state_11D: Floats, context_CD: Floats, evidence_CF: Floats) -> Floats:
        first, second = self._interest
        interest_D = self._interest_norm(second(_gelu(first(state_11D))))[0, 0]
        logits_C = interest_D @ self._centroid_DC
        logits_C += np.einsum("cd,cd->c", context_CD, self._read_CD)
        logits_C += evidence_CF @ self._head_evidence(state_11D)[0, 0]
        logits_C -= logits_C.max()
        return logits_C - np.log(np.exp(logits_C).sum())

    def _mass(self, code_K: NDArray[np.int64], value_KH: Floats) -> Floats:
        """Sums of values by code: (C, H); code -1 is left out."""
        sums_CH = np.zeros((self._codes + 1, value_KH.shape[1]), np.float32)
        np.add.at(sums_CH, code_K, value_KH)  # -1: the last row
        return sums_CH[:-1]


def _decay(length: int) -> Floats:
    """Weight of each event of a history for how often the user was at its code: (L, 1)."""
    return np.power(np.float32(OWN_DECAY), np.arange(length - 1, -1, -1), dtype=np.float32)[:, None]


def _numpy(value: Tensor) -> Floats:
    return value.detach().float().cpu().numpy()


def _softmax(x: Floats, axis: int) -> Floats:
    x = x - x.max(axis=axis, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=axis, keepdims=True)
    return x


def _gelu(x: Floats) -> Floats:
    half: Floats = 0.5 * x * (1 + erf(x * np.float32(0.5**0.5)))
    return half
