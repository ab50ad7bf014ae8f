"""One snapshot, loaded and able to answer: what a request sees from its beginning to its end.

A `Retriever` is immutable, so a request that holds one never mixes versions, and swapping is
replacing one reference. The service and the registered pyfunc model both answer through
`Retriever.answer`, which is why they agree.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.catalogue.item_columns import ItemColumns
from indexer.catalogue.property_reader import read_columns
from indexer.catalogue.shown_columns import shown_columns
from indexer.lists.device_rows import DeviceRows
from indexer.search.answerable import Answerable
from indexer.search.code_labels import code_labels
from indexer.search.config import SearchConfig
from indexer.search.query import Answer, Query, QueryError
from indexer.search.selection import Selection
from indexer.search.similar_items import SimilarAnswer, Trigger
from indexer.search.soft_search import SoftSearch
from indexer.snapshots.snapshot import Snapshot
from indexer.snapshots.snapshot_reading import load_snapshot, load_version
from model.artifacts.verified_files import VerifiedFiles
from model.histories import History
from streaming.events import HISTORY_LENGTH

Texts = Callable[[Sequence[int]], Mapping[int, str]]


class Retriever:
    """A loaded snapshot, able to answer; never changed.

    Args:
        snapshot: with the items appended to it until then.
        search: how queries are searched.
        columns: what is known of the items whatever the snapshot holds, so that those that are
            hidden, withdrawn or not available are in no answer; None, or of nothing: what the
            snapshot shows.
        texts: what the shop calls some items, for those that were clicked and never listed.
        device: where lists are searched, as far as they fit; None: where they are.

    Attributes:
        snapshot: as given; it still names what must not be answered, for a user's history.
        columns: as given.
        event_time_ms: newest event that the snapshot learnt from.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        search: SearchConfig,
        columns: ItemColumns | None = None,
        texts: Texts = lambda _: {},
        device: DeviceRows | None = None,
    ) -> None:
        self.snapshot = snapshot
        self.texts = texts
        self.columns = columns
        self.event_time_ms = snapshot.facts.trained_until_ms or 0
        self._search = SoftSearch(
            snapshot.model,
            snapshot.lists,
            search,
            _listed_ms(snapshot) if search.explore.young else None,
            device=device,
        )
        self._answerable = Answerable(self._search, self._filtered_by(columns))
        self._labels: dict[int, str] | None = None

    @classmethod
    def load(cls, directory: Path, search: SearchConfig) -> Retriever:
        """Verify and load a snapshot directory.

        Raises:
            SnapshotError: if a file is missing or altered, or the content does not fit together.
        """
        return cls(load_snapshot(directory), search)

    @classmethod
    def of_version(
        cls,
        data_dir: Path,
        version: int,
        search: SearchConfig,
        beside: Retriever | None = None,
        verified: VerifiedFiles | None = None,
    ) -> Retriever:
        """Verify and load a version of a data directory, without what was withdrawn since.

        Args:
            data_dir: holds it.
            version: its number.
            search: how queries are answered.
            beside: another version, with which it shares what is the same.
            verified: files that are known; None for none.

        Raises:
            SnapshotError: as `load`, and if it is not what was published there.
        """
        held = beside.snapshot if beside is not None else None
        snapshot = load_version(data_dir, version, held=held, verified=verified)
        columns = read_columns(data_dir, verified)
        return cls(snapshot, search, columns, beside.texts if beside else lambda _: {})

    def with_columns(self, columns: ItemColumns) -> Retriever:
        """The same version by other properties of the items; costs what differs in them."""
        if columns is self.columns:
            return self
        other = copy.copy(self)
        other.columns = columns
        by = self._filtered_by(columns)
        other._answerable = Answerable(self._search, by, self._answerable)
        return other

    def _filtered_by(self, columns: ItemColumns | None) -> ItemColumns:
        return columns or shown_columns(self.snapshot.items)

    def searched_by(self, search: SearchConfig) -> Retriever:
        """The same version, searched in another way; what does not depend on it is shared."""
        listed_ms_N = _listed_ms(self.snapshot) if search.explore.young else None
        other = copy.copy(self)
        other._search = self._search.searched_by(search, listed_ms_N)
        other._answerable = self._answerable.searched_by(other._search)
        return other

    @property
    def version(self) -> int:
        """The indexer's number of the snapshot."""
        return self.snapshot.version

    def may_answer(self, item_ids: Sequence[int]) -> NDArray[np.bool_]:
        """Which items may be answered at the time of the newest event (n)."""
        positions, codes = self.snapshot.lists.positions_of(np.array(item_ids, np.int64))
        only = self._answerable.of(None, None, self.event_time_ms)
        return codes >= 0 if only is None else only.has(positions)

    @property
    def retrievable(self) -> int:
        """How many items may be answered at the time of the newest event."""
        only = self._answerable.of(None, None, self.event_time_ms)
        return len(self.snapshot.lists) if only is None else len(only)

    def answer(self, query: Query, clock_ms: int = 0) -> Answer:
        """Retrieve for one query; `clock_ms` is the newest event time known elsewhere."""
        return self.answers([query], clock_ms)[0]

    def answers(self, queries: Sequence[Query], clock_ms: int = 0) -> list[Answer]:
        """Retrieve for several queries; those that ask for as much are searched together.

        Raises:
            FilterError: for a filter that makes no sense of what items there are.
        """
        now = [self._now(query, clock_ms) for query in queries]
        only = [self._only(query, now_ms) for query, now_ms in zip(queries, now, strict=True)]
        found: dict[int, Answer] = {}
        together: dict[tuple[int, int | None, int], list[int]] = {}
        for at, query in enumerate(queries):
            together.setdefault((query.k, query.codes, id(only[at])), []).append(at)
        for places in together.values():
            some = [queries[at] for at in places]
            times = np.array([now[at] for at in places], np.int64)
            found |= zip(places, self._search_for(some, times, only[places[0]]), strict=True)
        return [found[at] for at in range(len(queries))]

    def _now(self, query: Query, clock_ms: int) -> int:
        if query.now_ms is not None:
            return int(query.now_ms)
        return int(max(clock_ms, self.event_time_ms, *(query.times or ()), 0))

    def _history(self, query: Query, now_ms: int) -> History:
        """The newest clicks of a query."""
        times = [now_ms] * len(query.items) if query.times is None else list(query.times)
        return History(list(query.items)[-HISTORY_LENGTH:], times[-HISTORY_LENGTH:])

    def _unwanted(self, query: Query) -> list[int]:
        return [*(query.items if query.exclude_seen else ()), *query.exclude]

    def _only(self, query: Query, now_ms: int) -> Selection | None:
        return self._answerable.of(query.filter, query.include_only, now_ms)

    def _search_for(
        self, queries: Sequence[Query], now_ms_B: NDArray[np.int64], only: Selection | None
    ) -> list[Answer]:
        histories = [
            self._history(query, now_ms)
            for query, now_ms in zip(queries, now_ms_B.tolist(), strict=True)
        ]
        found = self._search.search(
            histories,
            now_ms_B,
            queries[0].k,
            codes=queries[0].codes,
            exclude=[self._unwanted(query) for query in queries],
            only=only,
        )
        return [Answer.of(found, row, now_ms) for row, now_ms in enumerate(now_ms_B.tolist())]

    def similar(self, item: int, query: Query, clock_ms: int = 0) -> SimilarAnswer:
        """Items like one item, for the user of the query, or for nobody where it has no items.

        The item itself may be one that is not answered: what is sold out still has its page.

        Raises:
            QueryError: if the version does not hold the item.
            FilterError: for a filter that makes no sense of what items there are.
        """
        lists = self.snapshot.lists
        positions, codes = lists.positions_of(np.array([item], np.int64))
        if codes[0] < 0:
            raise QueryError(
                f"item_id: {item} is not listed in version {self.version}; an item that was listed "
                "just now is there within seconds"
            )
        now_ms = self._now(query, clock_ms)
        return self._search.similar.search(
            Trigger(item, int(codes[0]), lists.vectors_at(positions)[0]),
            self._history(query, now_ms),
            now_ms,
            query.k,
            query.codes or self._search.config.codes,
            self._unwanted(query),
            self._only(query, now_ms),
        )

    def label(self, code: int) -> str:
        """What the clicked items of a first-level code have in common: a category, or a title."""
        if self._labels is None:
            self._labels = code_labels(self.snapshot)
        return self._labels.get(code, "")

    def items_for(
        self, histories: Sequence[History], now_ms: NDArray[np.int64], k: int
    ) -> NDArray[np.int64]:
        """The k best items of many histories, each at its own time: (B, k), padded with -1."""
        items_BK = np.full((len(histories), k), -1)
        only = [self._answerable.of(None, None, one) for one in now_ms.tolist()]
        for selection in {id(one): one for one in only}.values():
            rows = [b for b, one in enumerate(only) if one is selection]
            some = [histories[b] for b in rows]
            items_BK[rows] = self._search.search(some, now_ms[rows], k, only=selection).items_BK
        return items_BK

    def interests(
        self, histories: Sequence[History], now_ms: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """p(c|u) of many histories, each at its own time, as searched: float64 (B, C)."""
        model = self.snapshot.model
        logs = model.log_interests(model.encode(histories, now_ms)).astype(np.float64)
        logs /= self._search.config.temperature
        weights = np.exp(logs - logs.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    def titles(self, item_ids: Sequence[int]) -> list[dict[str, str]]:
        """title, category and external_id of each item; empty strings where unknown.

        The external id is what the shop calls the item, and never empty: it can be asked for.
        """
        found = self.snapshot.items.shown(item_ids)
        bare = [i for i, row in zip(item_ids, found, strict=True) if not row["external_id"]]
        if not bare:
            return found
        texts = self.texts(bare)
        return [
            row if row["external_id"] else row | {"external_id": texts.get(item, str(item))}
            for item, row in zip(item_ids, found, strict=True)
        ]


def _listed_ms(snapshot: Snapshot) -> NDArray[np.int64]:
    """When the item of each position in the lists was first listed, in milliseconds."""
    return snapshot.items.first_seen(snapshot.lists.item_ids_N)
