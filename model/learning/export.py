"""What serves a learner's model: weights, what is to be said of the items, and facts.

Of an item that was published before, only what changed is said. Its place is looked at when it may
have moved: when its id part, its title or its category changed, and otherwise in its turn, as the
words and categories that items share move all of them a little. It is said again when it is further
from where it was *published* than a tolerance, so that small steps do not add up unseen, or when
its first-level code is another one. Of an item that was forgotten it is said that it is gone; its
row may be another item's by then.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.learning.item_tables import ItemTables
from model.network.quantizer import ResidualQuantizer
from model.network.sparc import Sparc
from model.retrieval.item_segments import ItemSegments
from model.retrieval.model_facts import model_facts
from model.retrieval.retrieval_model import RetrievalModel
from model.retrieval.segment import Segment
from model.tables.decayed_counts import log_counts
from model.tables.row_index import NO_ITEM
from model.tables.touched_rows import PUBLICATION

SWEEP = 32_768
"""Rows looked at in their turn at each publication: none is behind by more than N / SWEEP of them.
A catalogue no larger is looked at whole, which takes a tenth of a second."""

Rows = NDArray[np.int64]


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


class Changes(NamedTuple):
    """Rows that may have changed since they were published, each ascending.

    Attributes:
        places: whose place is to be looked at.
        counts: that had an event.
        neighbours: whose neighbours changed.
        gone: that are not the item's any more that was published in them, and free ones that are
            named for the first time.
        gone_ids: ids of these items, `NO_ITEM` where there was none.
    """

    places: Rows
    counts: Rows
    neighbours: Rows
    gone: Rows
    gone_ids: Rows

    @classmethod
    def all(cls, tables: ItemTables) -> Changes:
        """Of a learner that has published nothing: all there is to say."""
        counted = np.flatnonzero(tables.events_N > 0)
        free = np.flatnonzero(tables.catalogue.item_ids_N == NO_ITEM)
        rows, near = tables.catalogue.item_rows, tables.neighbours.items()
        return cls(rows, counted, near, free, np.full(len(free), NO_ITEM))

    @classmethod
    def since(cls, tables: ItemTables, published: ItemSegments, swept: int) -> Changes:
        """Since the last publication.

        Args:
            tables: of the learner.
            published: what was said of the items before.
            swept: the row at which the sweep goes on.
        """
        size, before, ids_N = len(tables), len(published), tables.catalogue.item_ids_N
        turn = (swept + np.arange(min(SWEEP, size))) % max(size, 1)
        new, listed = np.arange(before, size), tables.catalogue.touched.rows(PUBLICATION)
        places = np.concatenate([turn, new, listed, tables.ids.touched.rows(PUBLICATION)])
        counted = tables.popularity.touched.rows(PUBLICATION)
        near = tables.neighbours.touched.rows(PUBLICATION)
        there = listed[listed < before]
        left = there[(published.ids_N[there] != ids_N[there]) & (published.ids_N[there] != NO_ITEM)]
        free = new[ids_N[new] == NO_ITEM]
        return cls(
            _of_items(np.unique(places), ids_N),
            counted[tables.events_N[counted] > 0],
            _of_items(near, ids_N),
            np.concatenate([left, free]),
            np.concatenate([published.ids_N[left], ids_N[free]]),
        )


def _of_items(rows: Rows, ids_N: Rows) -> Rows:
    """Those of rows that hold an item."""
    return rows[ids_N[rows] != NO_ITEM]


def forget_changes(tables: ItemTables) -> None:
    """From here on changes are counted anew: they are published."""
    rows = [table.touched for table in tables.learnt_rows]
    counts = [tables.popularity.touched, tables.code_popularity.touched]
    for touched in (tables.catalogue.touched, *rows, *counts, tables.neighbours.touched):
        touched.take(PUBLICATION)


def dense_weights(network: Sparc, tables: ItemTables, clock_ms: int) -> dict[str, Tensor]:
    """Everything but the items, as of `clock_ms`: copies on the CPU."""
    code_counts_CH = tables.code_popularity.current(clock_ms)[: network.quantizer.config.codes]
    tensors = {f"sparc.{n}": v.detach().clone() for n, v in network.state_dict().items()}
    tensors |= {
        "words_WD": tables.words.weight_ND.clone(),
        "categories_KD": tables.categories.weight_ND.clone(),
        "words.idf_W": torch.from_numpy(tables.catalogue.idf_W),
        "codes.popularity_CP": torch.from_numpy(log_counts(code_counts_CH)),
    }
    return {name: value.cpu().contiguous() for name, value in tensors.items()}


def export(
    network: Sparc,
    tables: ItemTables,
    changes: Changes,
    z_nD: NDArray[np.float32],
    codes_nQ: NDArray[np.int16],
    published: ItemSegments | None,
    *,
    tolerance: float,
    seed: int,
    clock_ms: int,
) -> Export:
    """Weights, the items that changed, and facts for `RetrievalModel`, as of `clock_ms`.

    Args:
        network: its weights are copied.
        tables: of the same model.
        changes: what may have to be said.
        z_nD: of `changes.places`.
        codes_nQ: of them.
        published: what was said before; None: nothing.
        tolerance: how far a place may be from where it was published, in parts of the RMS norm.
        seed: of the initial id parts.
        clock_ms: the time to which the recency prior is brought forward.
    """
    rows_n = changes.places
    if published is not None:
        furthest = tolerance * rms_norm(network.quantizer)
        said_n = _to_be_said(tables, published, rows_n, z_nD, codes_nQ, furthest)
        rows_n, z_nD, codes_nQ = rows_n[said_n], z_nD[said_n], codes_nQ[said_n]
    count = tables.catalogue.count
    facts = model_facts(network.config, seed, clock_ms, count, network.one_user_vector)
    segment = _segment(tables, changes._replace(places=rows_n), z_nD, codes_nQ)
    return Export(dense_weights(network, tables, clock_ms), segment, facts)


def rms_norm(quantizer: ResidualQuantizer) -> float:
    """Root of the mean squared length of z, by the quantizer's moving averages."""
    return float((quantizer.mean_D.square() + quantizer.variance_D).sum().sqrt())


def _to_be_said(
    tables: ItemTables,
    published: ItemSegments,
    rows_n: Rows,
    z_nD: np.ndarray,
    codes_nQ: np.ndarray,
    furthest: float,
) -> NDArray[np.bool_]:
    said_n = rows_n >= len(published)
    same = published.ids_N[rows_n[~said_n]] == tables.catalogue.item_ids_N[rows_n[~said_n]]
    said_n[~said_n] = ~same
    old = np.flatnonzero(~said_n)
    rows = rows_n[old]
    moved = np.square(z_nD[old] - published.z(rows)).sum(axis=1) > furthest * furthest
    moved |= codes_nQ[old, 0] != published.codes_NQ[rows, 0]
    words_nT, category_n = published.features(rows)
    moved |= (tables.catalogue.words_NT[rows] != words_nT).any(axis=1)
    moved |= tables.catalogue.category_N[rows] != category_n
    said_n[old] = moved
    return said_n


def _segment(
    tables: ItemTables, changes: Changes, z_nD: np.ndarray, codes_nQ: np.ndarray
) -> Segment:
    catalogue, rows_n, counted_m, near_k = tables.catalogue, *changes[:3]
    counts_mH, times_m = tables.popularity.stored(counted_m)
    slots = tables.neighbours.ragged(near_k)
    return Segment(
        rows_n=rows_n,
        ids_n=catalogue.item_ids_N[rows_n],
        z_nD=z_nD,
        codes_nQ=codes_nQ,
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
        gone_rows_g=changes.gone,
        gone_ids_g=changes.gone_ids,
    )
