"""Training steps of examples: their candidates, and everything else in the candidates' positions.

Shapes: B examples, S candidates, G clocks, N items, H half-lives, K neighbours, L history length.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from model.histories import NO_ROW
from model.launches import few, on
from model.learning.candidates import UNSEEN
from model.learning.item_tables import ItemTables
from model.network.losses import log_inclusion
from model.network.sparc import neighbour_features
from model.network.step_batch import Batch
from model.ranks import ALONE, Ranks
from model.tables.replay_buffer import Examples, concatenate


def make_batch(
    tables: ItemTables,
    parts: list[Examples],
    *,
    chunk: int,
    most: int,
    clock_ms: int,
    generator: torch.Generator,
    ranks: Ranks = ALONE,
) -> Batch:
    """One step on all parts.

    Args:
        tables: rows and counts.
        parts: new examples and replayed ones.
        chunk: consecutive examples of a part that share a clock.
        most: negatives; of a larger catalogue a sample is taken.
        clock_ms: time of the newest event.
        generator: draws the sample.
        ranks: who shares the examples.
    """
    clocks: list[np.ndarray] = []
    groups: list[np.ndarray] = []
    for part in parts:
        events = np.arange(len(part.times_B))
        groups.append(events // chunk + sum(len(c) for c in clocks))
        clocks.append(np.minimum.reduceat(part.times_B, events[::chunk]))
    examples, clocks_G, tensor = concatenate(parts), np.concatenate(clocks), tables.tensor
    clock_B = np.concatenate(groups)
    ends = np.bincount(clock_B).cumsum().tolist()
    given = np.unique(np.concatenate([examples.targets_B, examples.histories.rows_BL.ravel()]))
    given = given[given != NO_ROW]
    rows_S, share, unseen_share = tables.candidates.draw(
        tables.catalogue.item_ids_N, given, most, generator, tables.catalogue.free
    )
    clicked_S = tables.popularity.seen(rows_S)
    share_S = torch.from_numpy(np.where(clicked_S, share, unseen_share))
    counts_GSH = tables.popularity.before(clocks_G, rows_S)
    code_counts_GCH = tables.code_popularity.before(
        clocks_G, np.arange(tables.model.quantizer.codes)
    )
    frequency_S = _frequency(tables, rows_S, clock_ms)
    events_in_step = len(examples.targets_B)
    log_frequency_S = torch.log(frequency_S * events_in_step + 1e-6)
    if few(tables.device):  # what is added to 64 bits would have 64, too
        log_frequency_S = log_frequency_S.float()
    age_BL = examples.times_B[:, None] - examples.histories.times_BL
    age_BL = np.where(examples.histories.known_BL, age_BL, 0).astype(np.float32)
    near = examples.neighbours
    history_BL, target_B, neighbour_BK = tables.positions(
        rows_S, examples.histories.rows_BL, examples.targets_B, near.rows_BK
    )
    return Batch(
        items=tables.inputs_to_learn(rows_S),
        item_rows_S=tensor(rows_S),
        clicked_S=tensor(clicked_S),
        negative_s=tensor(np.flatnonzero(clicked_S | (unseen_share > 0))),
        codebook_s=tensor(_for_the_codebook(clicked_S)) if unseen_share else None,
        log_q_S=on(tables.device, log_inclusion(frequency_S, events_in_step, share_S)),
        log_frequency_S=on(tables.device, log_frequency_S),
        target_B=tensor(target_B),
        history_BL=tensor(history_BL),
        event_E=tensor(np.flatnonzero(history_BL >= 0)),
        age_BL=tensor(age_BL),
        clock_B=tensor(clock_B),
        clocks=list(zip([0, *ends], ends, strict=False)),
        popularity_GSP=tensor(counts_GSH).log1p_(),
        code_popularity_GCP=tensor(code_counts_GCH).log1p_(),
        neighbour_BK=tensor(neighbour_BK),
        neighbour_code_BK=tensor(tables.codes(near.rows_BK)),
        neighbour_score_BKH=neighbour_features(tensor(near.scores_BKH)),
        history_code_BL=tensor(tables.codes(examples.histories.rows_BL)),
        share=ranks.share(events_in_step),
    )


def _for_the_codebook(clicked_S: np.ndarray) -> np.ndarray:
    """Positions of all that nobody has clicked, and of as many evenly spread of the others.

    Or of `UNSEEN` of these: few of a large catalogue may be left that nobody has clicked, and they
    are no catalogue.
    """
    chosen_S, clicked = ~clicked_S, np.flatnonzero(clicked_S)
    most = max(int(chosen_S.sum()), UNSEEN)
    if most >= len(clicked):
        return np.arange(len(clicked_S))
    chosen_S[clicked[(np.arange(most) * len(clicked)) // most]] = True
    return np.flatnonzero(chosen_S)


def _frequency(tables: ItemTables, rows_S: np.ndarray, clock_ms: int) -> Tensor:
    """Share of recent events on each candidate, by the longest half-life."""
    counts_S, total = tables.popularity.latest(rows_S, clock_ms)
    return torch.from_numpy((counts_S / max(total, 1.0)).clip(1e-9, 1.0))
