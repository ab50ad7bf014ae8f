"""What serves a learner's model: weights, what is to be said of the items, and facts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.learning.item_tables import ItemTables
from model.network.sparc import Sparc
from model.retrieval.item_segments import ItemSegments, Segment
from model.retrieval.retrieval_model import RetrievalModel, model_facts
from model.tables.decayed_counts import log_counts


class Export(NamedTuple):
    """One published state.

    Attributes:
        tensors: dense weights, the same number of bytes whatever the catalogue is.
        segment: the items that changed.
        facts: for `RetrievalModel`.
    """

    tensors: dict[str, Tensor]
    segment: Segment
    facts: dict[str, Any]

    def model(self, device: str = "cpu") -> RetrievalModel:
        """The model of this state, whose segment is a base.

        Raises:
            SegmentError: if it is none.
        """
        items = ItemSegments.of([self.segment])
        return RetrievalModel(self.tensors, self.facts, items, device)


def export(network: Sparc, tables: ItemTables, z_ND: Tensor, seed: int, clock_ms: int) -> Export:
    """Weights, all items and facts for `RetrievalModel`, as of `clock_ms`.

    Args:
        network: its weights are copied.
        tables: of the same model.
        z_ND: of all items.
        seed: of the initial id parts.
        clock_ms: the time to which the recency prior is brought forward.
    """
    quantizer, config = network.quantizer, network.config
    codes_NQ = quantizer.assign(quantizer.standardise(z_ND))
    code_counts_CH = tables.code_popularity.current(clock_ms)[: quantizer.config.codes]
    tensors = {f"sparc.{n}": v.detach().clone() for n, v in network.state_dict().items()}
    tensors |= {
        "words_WD": tables.words.weight_ND.clone(),
        "categories_KD": tables.categories.weight_ND.clone(),
        "words.idf_W": torch.from_numpy(tables.catalogue.idf_W),
        "codes.popularity_CP": torch.from_numpy(log_counts(code_counts_CH)),
    }
    tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
    segment = _segment(tables, np.arange(len(tables)), z_ND, codes_NQ)
    facts = model_facts(config, seed, clock_ms, len(z_ND), network.one_user_vector)
    return Export(tensors, segment, facts)


def _segment(tables: ItemTables, rows_n: np.ndarray, z_nD: Tensor, codes_nQ: Tensor) -> Segment:
    """The places of some rows; counts and neighbours of all that have any."""
    catalogue, near = tables.catalogue, tables.neighbours
    counted_m = np.flatnonzero(tables.events_N > 0)
    counts_mH, times_m = tables.popularity.stored(counted_m)
    near_k = near.items()
    slots = near.ragged(near_k)
    return Segment(
        rows_n=rows_n,
        ids_n=catalogue.item_ids_N[rows_n],
        z_nD=z_nD.cpu().numpy(),
        codes_nQ=codes_nQ.cpu().numpy().astype(np.int16),
        words_nT=catalogue.words_NT[rows_n],
        category_n=catalogue.category_N[rows_n],
        event_rows_m=counted_m,
        events_m=tables.events_N[counted_m],
        counts_mH=counts_mH,
        count_times_m=times_m,
        near_rows_k=near_k,
        near_starts_K=slots.starts_K,
        near_items_P=slots.rows_P,
        near_weights_PH=slots.weights_PH,
        near_times_k=slots.times_k,
    )
