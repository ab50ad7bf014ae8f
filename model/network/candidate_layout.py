"""What the softmax over the candidates is made of, whichever way it is computed.

Shapes: B examples, S candidates (sorted by code), C codes, P features, K neighbours, L excluded,
G clocks, X user vectors handed out.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

LEAST = -60.0
"""Logits further than this below the best are raised to it: denormal numbers are slow."""
OUT = -1e4
"""Logit of what is no candidate."""


class Layout(NamedTuple):
    """What a block of logits is made of, none of it with a gradient.

    Attributes:
        sizes_C: number of candidates of each code, int64.
        clocks: runs of examples that share a clock, (first, end).
        features_GSP: evidence of candidates at each clock.
        log_q_S: log-probability of being a candidate.
        near_BK: positions of neighbours, -1 for none.
        excluded_BL: positions that are no answer, -1 for none; never the target.
        target_B: positions of the positives.
        parts: the examples of each part of the user vectors; together all, each once.
        picked_BX: codes whose user vectors are handed out.
    """

    sizes_C: Tensor
    clocks: list[tuple[int, int]]
    features_GSP: Tensor
    log_q_S: Tensor
    near_BK: Tensor
    excluded_BL: Tensor
    target_B: Tensor
    parts: list[Tensor]
    picked_BX: Tensor
