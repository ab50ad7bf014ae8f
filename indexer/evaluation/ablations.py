"""What each part of SPARC is worth: one part changed at a time, on the same protocol.

Controls that are trained anew:

    frozen_codebook    the codebooks stay as the warm-up left them, everything else learns on;
                       items are assigned anew as they move. Against joint training
    one_user_vector    one user vector for all codes instead of one per code, in training and
                       serving, read from the history by one learned query; interest head,
                       popularity and neighbours as before
    no_content         items are known by id alone, without title and category

Controls that change only what is served are asked beside the full model, in its own run; see
`indexer.evaluation.serving_variants`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from indexer.evaluation.online_sparc import OnlineSparc
from streaming.items import Item


def without_content(items: Sequence[Item], *settings: Any) -> OnlineSparc:
    """SPARC over items that have no title and no category."""
    return OnlineSparc([Item(item.item_id) for item in items], *settings)


TRAINED: dict[str, Callable[..., OnlineSparc]] = {
    "frozen_codebook": partial(OnlineSparc, frozen_after_warm_up=True),
    "one_user_vector": partial(OnlineSparc, one_user_vector=True),
    "no_content": without_content,
}
"""Makers of the controls that are trained anew; they take what `OnlineSparc` takes."""
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
