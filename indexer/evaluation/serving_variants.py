"""Other ways to answer the same queries of the same training run.

Where a control changes only what is served, no second training is needed: each way is asked the
queries of a day beside the served answer, before the day is learnt.

    hard_top_1         the most probable code alone (further ones only where it holds fewer than
                       50 items): matching in place of soft search
    no_reserve         no place is reserved for exploration: the ranking alone
    reserve_10, reserve_25, reserve_40
                       so many of 100 places are reserved for codes the user never touched: what
                       exploration costs, and what it brings in coverage and diversity
    equal_quota        the searched codes get equal places in the answer, whatever p(c|u) says
    stale_consumer     the codebook of today under the towers, item vectors and lists of the end of
                       the warm-up: the interest head and the user tower are asked with codewords
                       that moved on without them
    stale_towers       codebook, item vectors and lists of today, but user tower, interest head and
                       evidence weights of the end of the warm-up (the case of DACT, SIGIR 2026:
                       codes fine-tuned, recommender frozen)
    published_weekly, published_monthly
                       the whole version is renewed at the first event day after 7 or 30 days,
                       while training goes on; the served answer is renewed every event day
    published_never    everything served stays as it was after the warm-up, only histories grow:
                       the reference for the two stale ways, which are "bad" if they lose to it
    published_whole    every item is published in every version, also where it has moved less than
                       the tolerance: what it costs to publish only what changed
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from indexer.evaluation.published_versions import Handover, Publisher, Served, ask
from indexer.search.answers import Answers
from indexer.search.config import RANKED_ONLY, SearchConfig
from indexer.search.soft_search import SoftSearch
from model.evaluation.protocol import Queries
from model.learning.export import Export
from model.learning.learner import Learner
from model.retrieval.item_segments import ItemSegments
from model.retrieval.retrieval_model import RetrievalModel

CODEBOOK = ("sparc.quantizer.",)
CONSUMERS = ("sparc.user_towers.", "sparc.interest_head.", "sparc.evidence.")
"""Prefixes of the weights that turn a history into codes and user vectors."""

RESERVES = {"reserve_10": 0.1, "reserve_25": 0.25, "reserve_40": 0.4}
"""Shares of an answer that are reserved for codes the user never touched."""

MakeModel = Callable[[Export, ItemSegments], RetrievalModel]
"""The model of the weights of an export, and of items."""


class Way(Protocol):
    """Answers the queries of a day, given the version that is served."""

    def answer(self, served: Served, queries: Queries) -> Answers:
        """The 50 best items of each query."""


class Searched:
    """The served version, searched in another manner."""

    def __init__(self, config: SearchConfig) -> None:
        self._config = config

    def answer(self, served: Served, queries: Queries) -> Answers:
        """Search the same lists."""
        model, lists = served.handover.model, served.search.lists
        return ask(SoftSearch(model, lists, self._config), queries)


class PublishedEvery:
    """A version that is renewed only after so many days; None keeps the first for ever.

    Attributes:
        versions: how many were published so far.
    """

    def __init__(self, days: int | None) -> None:
        self.versions = 0
        self._days = days
        self._held: tuple[int, Served] | None = None

    def answer(self, served: Served, queries: Queries) -> Answers:
        """Ask the version that was last taken over."""
        held = self._held
        if held is None or (self._days is not None and queries.day >= held[0] + self._days):
            self._held = held = (queries.day, served)
            self.versions += 1
        return held[1].answer(queries)


class Mixed:
    """Weights of two times in one model, and the lists that such a model makes.

    Args:
        newest: prefixes of the weights taken from the served version; all others, the items'
            among them, are those of the first version.
        oldest: prefixes taken from the first version; all others are the served version's.
    """

    def __init__(
        self,
        make_model: MakeModel,
        publisher: Publisher,
        *,
        newest: tuple[str, ...] = (),
        oldest: tuple[str, ...] = (),
    ) -> None:
        self._make_model = make_model
        self._publisher = publisher
        self._newest, self._oldest = newest, oldest
        self._first: Handover | None = None

    def answer(self, served: Served, queries: Queries) -> Answers:
        """Build the mixed model with an index of its own, and ask it."""
        new = served.handover
        self._first = self._first or new
        base, other = (self._first, new) if self._newest else (new, self._first)
        prefixes = self._newest or self._oldest
        for prefix in prefixes:
            if not any(name.startswith(prefix) for name in new.export.tensors):
                raise ValueError(f"the model has no weights {prefix}*: this control would be void")
        changed = {n: v for n, v in other.export.tensors.items() if n.startswith(prefixes)}
        export = base.export._replace(tensors=base.export.tensors | changed)
        mixed = self._publisher.once(Handover(export, self._make_model(export, base.model.items)))
        return mixed.answer(queries)


class PublishedWhole:
    """Versions that hold every item as the learner has it now."""

    def __init__(self, learner: Learner, make_model: MakeModel, publisher: Publisher) -> None:
        self._learner = learner
        self._make_model = make_model
        self._publisher = publisher

    def answer(self, served: Served, queries: Queries) -> Answers:
        """Publish all there is, with an index of its own, and ask it."""
        export = self._learner.export(now_ms=queries.now_ms)
        model = self._make_model(export, ItemSegments.of([export.segment]))
        return self._publisher.once(Handover(export, model)).answer(queries)


def search_ways(search: SearchConfig) -> dict[str, Way]:
    """Controls that change the search alone."""
    return {
        "hard_top_1": Searched(replace(search, codes=1, evidence=0, explore=RANKED_ONLY)),
        "no_reserve": Searched(replace(search, explore=RANKED_ONLY)),
        **{
            name: Searched(replace(search, explore=replace(RANKED_ONLY, untouched=share)))
            for name, share in RESERVES.items()
        },
        "equal_quota": Searched(replace(search, quota="equal")),
    }


def stale_ways(make_model: MakeModel, publisher: Publisher) -> dict[str, Way]:
    """Controls that leave a part of what is served behind."""
    return {
        "stale_consumer": Mixed(make_model, publisher, newest=CODEBOOK),
        "stale_towers": Mixed(make_model, publisher, oldest=CONSUMERS),
    }


def interval_ways() -> dict[str, Way]:
    """Publish intervals longer than a day."""
    return {
        "published_weekly": PublishedEvery(7),
        "published_monthly": PublishedEvery(30),
        "published_never": PublishedEvery(None),
    }
