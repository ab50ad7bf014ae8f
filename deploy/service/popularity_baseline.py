"""What popularity would have answered: the baseline that a recommender must beat, alive.

Each click is first answered, then counted. The answer is the same for everybody, the items with
the most clicks, each halved every `half_life` days of event time (the peer `popularity` of
`model/peers`), less the user's history. Queries, measure and window are those of the trainer's
prequential metrics (`model/training/prequential.py`), so the two curves may be laid over each
other.

Weights grow with event time instead of fading, which ranks alike; they are scaled down before
they overflow.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import structlog

from deploy.monitoring.thinned_curve import Curve
from indexer.catalogue.item_columns import NONE, ItemColumns
from streaming.bounds import DAY_MS
from streaming.durable_files import write_atomically
from streaming.events import HISTORY_LENGTH, UserSequence

log = structlog.get_logger(__name__)

DEPTH = 50
REFRESH_EVENTS = 256
"""The list is ranked anew after so many clicks."""
POINT_QUERIES = 64
REMEMBERED_ITEMS = 50_000
"""Items whose weights survive a restart, heaviest first."""
SAVE_SECONDS = 30.0
_LARGEST_EXPONENT = 200.0


class PopularityBaseline:
    """Answers, judges and counts; one thread feeds it, any may read.

    Attributes:
        curve: (event time in ms, Recall@50 of the window, Recall@50 since the beginning).
    """

    def __init__(
        self, window: int = 10_000, half_life_days: float = 7.0, path: Path | None = None
    ) -> None:
        self._half_life_ms = half_life_days * DAY_MS
        self._path = path
        self._lock = threading.Lock()
        self._rows: dict[int, int] = {}
        self._ids = np.zeros(1024, np.int64)
        self._weights = np.zeros(1024)
        self._reference_ms: int | None = None
        self._hits = np.zeros(window, np.bool_)
        self._all_hits = 0
        self.queries = 0
        self.curve = Curve(("event_time_ms", "window_recall", "recall"))
        self._top: list[int] = []
        self._columns = ItemColumns()
        self._now_ms = 0
        self._period = -1
        self._out = NONE  # ids that may not be answered now, ascending
        self._stale = REFRESH_EVENTS
        self._load()

    @property
    def recall(self) -> float | None:
        """Recall@50 since the beginning; None before the first query."""
        return self._all_hits / self.queries if self.queries else None

    @property
    def window_recall(self) -> float | None:
        """Recall@50 of the last queries; None before the first one."""
        filled = min(self.queries, len(self._hits))
        return float(self._hits[:filled].mean()) if filled else None

    def best(self, k: int, now_ms: int = 0) -> list[int]:
        """The k most popular items now, best first; at most `DEPTH`."""
        with self._lock:
            self._now_ms = max(self._now_ms, now_ms)
            turned = self._columns.period(self._now_ms) != self._period
            if self._stale >= REFRESH_EVENTS or not self._top or turned:
                self._rank()
            return self._top[: min(k, DEPTH)]

    def leave_out(self, columns: ItemColumns) -> None:
        """Answer from now on with those items alone that may be answered."""
        with self._lock:
            self._columns, self._period = columns, -1
            self._stale = REFRESH_EVENTS

    def add(self, events: Sequence[tuple[int, int, UserSequence]]) -> None:
        """Take (partition, offset, sequence) in, in order of arrival."""
        with self._lock:
            for _, _, sequence in events:
                if sequence.history_items:
                    self._judge(sequence)
                self._count(sequence)

    def run(self, stop: threading.Event) -> None:
        """Save now and then until `stop` is set."""
        while not stop.wait(SAVE_SECONDS):
            try:
                self.save()
            except OSError as error:  # a full disk: what was saved before is kept
                log.warning("popularity not saved", reason=str(error))

    def save(self) -> None:
        """Write the state to the path, if there is one."""
        if self._path is None:
            return
        with self._lock:
            n = len(self._rows)
            heaviest = np.argsort(-self._weights[:n], kind="stable")[:REMEMBERED_ITEMS]
            filled = min(self.queries, len(self._hits))
            body = {
                "reference_ms": self._reference_ms,
                "ids": self._ids[heaviest].tolist(),
                "weights": self._weights[heaviest].tolist(),
                "queries": self.queries,
                "hits": self._all_hits,
                "window": np.packbits(self._hits[:filled]).tolist(),
                "curve": self.curve.points,
            }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, orjson.dumps(body), sync=False)

    def _load(self) -> None:
        if self._path is None or not self._path.is_file():
            return
        try:
            body: dict[str, Any] = orjson.loads(self._path.read_bytes())
            reference = body["reference_ms"]
            weights = np.array(body["weights"], np.float64)
            ids = [int(item) for item in body["ids"]]
            queries, hits = int(body["queries"]), int(body["hits"])
            bits = np.unpackbits(np.array(body["window"], np.uint8))
            points = [[float(value) for value in point] for point in body["curve"]]
        except (ValueError, KeyError, TypeError):
            return  # it begins anew: the curve is a comparison, not the product
        for item in ids:
            self._row(item)
        self._weights[: len(ids)] = weights
        self._reference_ms = reference
        self._all_hits, self.queries = hits, queries
        filled = min(queries, len(self._hits), len(bits))
        self._hits[:filled] = bits[:filled].astype(np.bool_)
        self.curve.resume(points)

    def _row(self, item: int) -> int:
        row = self._rows.setdefault(item, len(self._rows))
        if row == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros(row, np.int64)])
            self._weights = np.concatenate([self._weights, np.zeros(row)])
        self._ids[row] = item
        return row

    def _judge(self, sequence: UserSequence) -> None:
        if self._stale >= min(REFRESH_EVENTS, 1 + self.queries // 16):  # young lists age fast
            self._rank()
        seen, rank, hit = set(sequence.history_items), 0, False
        for item in self._top:
            if item in seen:
                continue
            if item == sequence.target:
                hit = True
                break
            rank += 1
            if rank == DEPTH:
                break
        self._hits[self.queries % len(self._hits)] = hit
        self._all_hits += hit
        self.queries += 1
        if self.queries % POINT_QUERIES == 0:
            window, whole = self.window_recall, self.recall
            self.curve.add((float(sequence.event_time), window or 0.0, whole or 0.0))

    def _rank(self) -> None:
        n = len(self._rows)
        weights = self._weights[:n]
        period = self._columns.period(self._now_ms)
        if period != self._period:
            self._period, self._out = period, self._columns.unanswerable(self._now_ms)
        wanted = taken = min(n, DEPTH + HISTORY_LENGTH)
        best = np.empty(0, np.int64)
        while taken:
            best = np.argpartition(-weights, taken - 1)[:taken]
            if len(self._out):
                at = np.searchsorted(self._out, self._ids[best]).clip(max=len(self._out) - 1)
                best = best[self._out[at] != self._ids[best]]
            if len(best) >= wanted or taken == n:
                break
            taken = min(n, 4 * taken)  # of the heaviest too many may not be answered
        order = best[np.lexsort((self._ids[best], -weights[best]))]
        self._top = self._ids[order[:wanted]].tolist()
        self._stale = 0

    def _count(self, sequence: UserSequence) -> None:
        self._now_ms = max(self._now_ms, sequence.event_time)
        if self._reference_ms is None:
            self._reference_ms = sequence.event_time
        exponent = (sequence.event_time - self._reference_ms) / self._half_life_ms
        if exponent > _LARGEST_EXPONENT:
            self._weights *= 2.0**-exponent
            self._reference_ms, exponent = sequence.event_time, 0.0
        # first, as it may put a longer array in the place of this one
        row = self._row(sequence.target)
        self._weights[row] += 2.0 ** max(exponent, -_LARGEST_EXPONENT)
        self._stale += 1
