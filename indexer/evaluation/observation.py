"""Everything that is looked at while SPARC answers, beside the served answer itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from indexer.evaluation.codebook_history import CodebookLog
from indexer.evaluation.interest_calibration import Exploration
from indexer.evaluation.online_sparc import OnlineSparc
from indexer.evaluation.recall_cost_curve import TradeOff
from indexer.evaluation.serving_variants import Way
from indexer.search.answers import Answers as Found
from model.evaluation import gains, predictions
from model.evaluation.online_model import Answers
from model.evaluation.predictions import Predictions
from model.evaluation.protocol import Day, ProtocolError
from streaming.items import Item


class Observation:
    """To be called with each day and its answers before the day is learnt (`runner.run`'s watch).

    Args:
        model: answers, and is asked nothing that changes it.
        items: the catalogue, ascending by id.
        ways: other ways to answer, by name.
        trade_off: numbers of codes.
        drift_threshold: of the indexer.
        clock: seconds.

    Attributes:
        seconds: wall time of the looking.
    """

    def __init__(
        self,
        model: OnlineSparc,
        items: Sequence[Item],
        ways: Mapping[str, Way],
        trade_off: Sequence[int],
        drift_threshold: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._model = model
        self._catalogue_N = np.array([item.item_id for item in items], dtype=np.int64)
        self._ways = dict(ways)
        self._answers: dict[str, list[Predictions]] = {name: [] for name in ways}
        self._trade_off = TradeOff(trade_off)
        self._exploration = Exploration()
        self._codebook = CodebookLog(drift_threshold)
        self._shares: list[np.ndarray] = []
        self._clock = clock
        self.seconds = 0.0

    def __call__(self, day: Day, answers: Answers) -> None:
        """Look at one day."""
        started = self._clock()
        model = self._model
        self._codebook.add(day.queries.day, model.served, model.learner)
        self._judge(day)
        for name, way in self._ways.items():
            found = way.answer(model.served, day.queries)
            try:
                predictions.check_answers(
                    day.queries.histories, found.items_BK, found.scores_BK, self._catalogue_N
                )
            except ProtocolError as error:
                raise ProtocolError(f"{name}, day {day.queries.day}: {error}") from error
            part = predictions.of_day(day, found.items_BK, found.scores_BK)
            self._answers[name].append(part)
        self.seconds += self._clock() - started

    def _judge(self, day: Day) -> None:
        search, found = self._model.served.search, self._model.found
        now_ms = np.full(len(day.queries), day.queries.now_ms, dtype=np.int64)
        rows = int(search.lists.lengths_C.sum())  # those whose item moved are scored, too
        self._shares.append(found.scored_B[day.query_R] / max(1, rows))
        first = 0
        for candidates in search.candidates(day.queries.histories, now_ms):
            last = first + len(candidates.scores_BN)
            mine_R = (day.query_R >= first) & (day.query_R < last)
            query_R, targets_R = day.query_R[mine_R] - first, day.targets_R[mine_R]
            self._trade_off.add(candidates, query_R, targets_R)
            self._exploration.add(
                day.queries.day,
                search.lists,
                day.queries.histories[first:last],
                candidates.log_p_BC,
                _part(found, slice(first, last)),
                query_R,
                targets_R,
            )
            first = last

    def other_answers(self) -> dict[str, Predictions]:
        """The answers of each other way."""
        return {name: predictions.join(parts) for name, parts in self._answers.items()}

    def report(self, served: Predictions) -> dict[str, Any]:
        """Cost of retrieval, exploration and codebook, as plain JSON values."""
        curve = self._trade_off.report()
        exhaustive = curve[-1] if curve else {}
        recall = gains.recall_gain(gains.ranks(served.items_RK, served.targets_R), 50)
        kept = None
        if exhaustive.get("recall@50"):
            kept = float(recall.mean()) / exhaustive["recall@50"]
        codes = self._model.served.search.config.codes if len(served) else None
        shares = np.concatenate([np.empty(0), *self._shares])
        return {
            "retrieval": {
                "codes": codes,
                "share_scored": float(shares.mean()) if len(shares) else None,
                "exhaustive": exhaustive,
                "kept": kept,
            },
            "trade_off": curve,
            "exploration": self._exploration.report(),
            "codebook": self._codebook.report(),
        }


def _part(found: Found, rows: slice) -> Found:
    return Found(**{name: getattr(found, name)[rows] for name in Found.__dataclass_fields__})
