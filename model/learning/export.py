"""What serves a learner's model: weights, counts and codes, and the facts that go with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.learning.item_tables import ItemTables
from model.network.sparc import Sparc
from model.retrieval.retrieval_model import model_facts
from model.tables.decayed_counts import log_counts


def export(
    network: Sparc, tables: ItemTables, z_ND: Tensor, seed: int, clock_ms: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and facts for `RetrievalModel`, as of `clock_ms`; every item gets its place.

    Args:
        network: its weights are copied.
        tables: of the same model.
        z_ND: of all items.
        seed: of the initial id parts.
        clock_ms: the time to which the recency prior is brought forward.
    """
    quantizer, config = network.quantizer, network.config
    codes_NQ = quantizer.assign(quantizer.standardise(z_ND))
    counts_NH = tables.popularity.current(clock_ms)
    code_counts_CH = tables.code_popularity.current(clock_ms)[: quantizer.config.codes]
    tensors = {f"sparc.{n}": v.detach().clone() for n, v in network.state_dict().items()}
    tensors |= {
        "words_WD": tables.words.weight_ND.clone(),
        "words.idf_W": torch.from_numpy(tables.catalogue.idf_W),
        "items.ids_N": torch.from_numpy(tables.catalogue.item_ids_N.copy()),
        "items.events_N": torch.from_numpy(tables.events_N.copy()),
        "items.id_ND": tables.ids.weight_ND.clone(),
        "items.z_ND": z_ND,
        "items.codes_NQ": codes_NQ.to(torch.int32),
        "items.places_N": torch.from_numpy(
            tables.places.assign(codes_NQ[:, 0].cpu().numpy()).astype(np.int32)
        ),
        "items.popularity_NP": torch.from_numpy(log_counts(counts_NH)),
        "codes.popularity_CP": torch.from_numpy(log_counts(code_counts_CH)),
        **{f"neighbours.{name}": value for name, value in tables.neighbours.state().items()},
    }
    tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
    vector = z_ND.shape[1] + tensors["items.popularity_NP"].shape[1] + config.key_dimension
    facts = model_facts(config, seed, clock_ms, vector, len(z_ND), network.one_user_vector)
    return tensors, facts
