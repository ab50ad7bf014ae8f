"""What one training step is given: examples, candidates, and what is known of both.

Shapes: B examples, L history length, S candidates, G clocks, C codes, K neighbours, H neighbour
half-lives, P popularity features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from model.network.item_tower import ItemInputs
from model.ranks import Share


class Batch(NamedTuple):
    """One training step; positions point into the S candidates, -1 is padding.

    Attributes:
        items: features of the candidates.
        item_rows_S: catalogue rows of the candidates.
        clicked_S: True for items that somebody has clicked; of the others no id part learns.
        negative_s: positions of the items that stand against a positive.
        codebook_s: positions of the items that shape the codebook; None: all.
        log_q_S: log-probability of being a candidate.
        log_frequency_S: log of the expected number of draws among the positives.
        target_B: positions of the positives.
        history_BL: positions of the histories' items.
        event_E: where in `history_BL`, read row by row, there is an event.
        age_BL: ages of the history's events in ms, float32.
        clock_B: which clock an example belongs to.
        clocks: runs of examples that share a clock, (first, end).
        popularity_GSP: popularity features of candidates at each clock.
        code_popularity_GCP: the same of codes.
        neighbour_BK: positions of the history's neighbours.
        neighbour_code_BK: their codes, also where they are no candidates.
        neighbour_score_BKH: features of their scores.
        history_code_BL: codes of the history's items.
        share: which of the examples are this rank's.
    """

    items: ItemInputs
    item_rows_S: Tensor
    clicked_S: Tensor
    negative_s: Tensor
    codebook_s: Tensor | None
    log_q_S: Tensor
    log_frequency_S: Tensor
    target_B: Tensor
    history_BL: Tensor
    event_E: Tensor
    age_BL: Tensor
    clock_B: Tensor
    clocks: list[tuple[int, int]]
    popularity_GSP: Tensor
    code_popularity_GCP: Tensor
    neighbour_BK: Tensor
    neighbour_code_BK: Tensor
    neighbour_score_BKH: Tensor
    history_code_BL: Tensor
    share: Share

    def own(self) -> Batch:
        """The same with this rank's examples alone, and the clocks that they have."""
        share = self.share
        if share.ranks == 1:
            return self
        own, first, end = share.of, share.first, share.end
        runs = [(max(a, first), min(e, end)) for a, e in self.clocks]
        used = [g for g, (a, e) in enumerate(runs) if a < e]
        clocks = slice(used[0], used[-1] + 1)
        events = self.own_events()
        return self._replace(
            target_B=own(self.target_B),
            history_BL=own(self.history_BL),
            event_E=events.of(self.event_E) - first * self.history_BL.shape[1],
            age_BL=own(self.age_BL),
            clock_B=own(self.clock_B) - used[0],
            clocks=[(a - first, e - first) for a, e in runs[clocks]],
            popularity_GSP=self.popularity_GSP[clocks],
            code_popularity_GCP=self.code_popularity_GCP[clocks],
            neighbour_BK=own(self.neighbour_BK),
            neighbour_code_BK=own(self.neighbour_code_BK),
            neighbour_score_BKH=own(self.neighbour_score_BKH),
            history_code_BL=own(self.history_code_BL),
        )

    def own_events(self) -> Share:
        """Which of `event_E` are of this rank's examples."""
        share, length = self.share, self.history_BL.shape[1]
        if share.ranks == 1:
            return Share(0, len(self.event_E), len(self.event_E))
        ends = torch.tensor([share.first, share.end], device=self.event_E.device) * length
        first, end = torch.searchsorted(self.event_E, ends).tolist()
        return Share(first, end, len(self.event_E), ranks=share.ranks)
