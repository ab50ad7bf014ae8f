"""What each part of SPARC is worth: one part changed at a time, on the same protocol.

Controls that are trained anew:

    frozen_codebook    the codebooks stay as the warm-up left them, everything else learns on;
                       items are assigned anew as they move. Against joint training
    one_user_vector    one user vector for all codes instead of one per code, in training and
                       serving; interest head, popularity and neighbours as before
    no_content         items are known by id alone, without title and category

Controls that change only what is served are asked beside the full model, in its own run; see
`indexer.evaluation.serving_variants`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from indexer.evaluation.online_sparc import ServedSparc
from indexer.indexing.indexer import IndexerConfig
from indexer.search.soft_search import SearchConfig
from model.evaluation import controls
from model.evaluation.prequential_run import OnlineSparcConfig
from model.evaluation.protocol import Events
from model.retrieval.retrieval_model import RetrievalModel
from streaming.events import Item


class FrozenCodebook(ServedSparc):
    """The codebook learns in the warm-up only."""

    def warm_up(self, events: Events) -> None:
        """Learn with the codebook, then freeze it."""
        super().warm_up(events)
        controls.freeze_codebook(self.learner)


class OneUserVector(ServedSparc):
    """One user vector for all codes."""

    def __init__(
        self,
        items: Sequence[Item],
        config: OnlineSparcConfig,
        indexer: IndexerConfig,
        search: SearchConfig,
        device: str = "cpu",
    ) -> None:
        super().__init__(items, config, indexer, search, device)
        controls.one_user_vector(self.learner)

    def retrieval_model(self, tensors: dict[str, Any], facts: dict[str, Any]) -> RetrievalModel:
        """The model that these weights make, asked in the same manner as it was trained."""
        model = super().retrieval_model(tensors, facts)
        controls.one_user_vector(model)
        return model


class NoContent(ServedSparc):
    """Items without title and category."""

    def __init__(
        self,
        items: Sequence[Item],
        config: OnlineSparcConfig,
        indexer: IndexerConfig,
        search: SearchConfig,
        device: str = "cpu",
    ) -> None:
        bare = [Item(item.item_id) for item in items]
        super().__init__(bare, config, indexer, search, device)


TRAINED: dict[str, type[ServedSparc]] = {
    "frozen_codebook": FrozenCodebook,
    "one_user_vector": OneUserVector,
    "no_content": NoContent,
}
SERVED = (
    "no_reserve",
    "hard_top_1",
    "equal_quota",
    "stale_consumer",
    "stale_towers",
    "published_never",
)
NAMES = {
    "sparc": "SPARC",
    "no_reserve": "no place reserved for exploration",
    "frozen_codebook": "frozen codebook after the warm-up",
    "hard_top_1": "hard top-1 code instead of soft search",
    "equal_quota": "equal quota for each code",
    "one_user_vector": "one user vector instead of one per code",
    "no_content": "no content features",
    "stale_consumer": "codebook moved, towers and index stale",
    "stale_towers": "codebook and index moved, towers stale",
    "published_never": "everything served stale (reference)",
}
"""The rows of the table, in their order."""
