"""SPARC in the prequential protocol, from files, scored exhaustively or by soft search.

    python -m model.evaluation.prequential_run --events F --items F --out DIR [--until DAY]

The learner is the pipeline's. What differs is that the log comes from a file and that answers
come from a dense scan of the chosen codes' items instead of the indexes: the ranking is the same
(`indexer.search.soft_search`), and the room of the model stays free of the indexer. `sparc
evaluate` (`deploy.studies`) answers from real indexes; this command is the short one for
experiments.

Warm-up: one pass in micro-batches, as in production, then `rehearsals` passes' worth of replay.
Shapes: B queries, N items, C codes, K answers, D dimension.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from model.evaluation import protocol, runner
from model.evaluation.protocol import LIST_LENGTH, Events, Queries
from model.evaluation.runner import Answers
from model.evaluation.user_sequences import SequencesOfUsers
from model.histories import History
from model.learning import learner
from model.learning.learner import Learner
from model.retrieval.retrieval_model import RetrievalModel
from streaming.events import Item

WARM_UP_STEP = 512
"""Examples in a step of the warm-up, where there is time for large ones."""


@dataclass(frozen=True)
class OnlineSparcConfig:
    """How SPARC takes part.

    Attributes:
        learner: the learner's settings.
        codes: codes searched for a query; 0 searches all of them.
        batch_size: events in a micro-batch.
        replay: older events learnt again for each new one after the warm-up; the protocol allows 4.
        rehearsals: passes over the warm-up, by replay, after the first.
    """

    learner: learner.LearnerConfig = field(default_factory=learner.LearnerConfig)
    codes: int = 9
    batch_size: int = 256
    replay: float = 4.0
    rehearsals: float = 3.0


class OnlineSparc:
    """SPARC as `runner.OnlineModel`."""

    def __init__(
        self,
        items: Sequence[Item],
        config: OnlineSparcConfig,
        device: str = "cpu",
        *,
        one_user_vector: bool = False,
        frozen_after_warm_up: bool = False,
    ) -> None:
        self.config = config
        self._frozen_after_warm_up = frozen_after_warm_up
        self.learner = Learner(config.learner, device, one_user_vector=one_user_vector)
        self.learner.list_items(items)
        self._sequences = SequencesOfUsers()

    def warm_up(self, events: Events) -> None:
        """One pass in the order of time, without replay, then rehearsals."""
        self._learn(events, WARM_UP_STEP, replay=0)
        for _ in range(round(self.config.rehearsals * len(events) / WARM_UP_STEP)):
            self.learner.rehearse(WARM_UP_STEP)
        self.learner.codebook_frozen = self._frozen_after_warm_up

    def answer(self, queries: Queries) -> Answers:
        """Soft search with the weights as they are after the last day."""
        model = self.learner.retrieval_model(queries.now_ms)
        return answer(model, queries.histories, queries.now_ms, self.config.codes)

    def learn(self, events: Events) -> int:
        """One day, in micro-batches; returns the number of replayed examples."""
        before = self.learner.replayed
        self._learn(events, self.config.batch_size, self.config.replay)
        return self.learner.replayed - before

    def facts(self) -> dict[str, Any]:
        """Configuration and codebook health."""
        return dataclasses.asdict(self.config) | {"health": self.learner.codebook_health()}

    def _learn(self, events: Events, size: int, replay: float) -> None:
        sequences = list(self._sequences.take(events))
        for a in range(0, len(sequences), size):
            self.learner.learn(sequences[a : a + size], replay)


def score(
    model: RetrievalModel, histories: Sequence[History], now_ms: int, codes: int
) -> np.ndarray:
    """The score of every item: (B, N) float32, -inf outside the codes."""
    encoded = model.encode(histories, np.full(len(histories), now_ms, dtype=np.int64))
    log_p_BC = model.log_interests(encoded)
    every_BC = np.broadcast_to(np.arange(model.first_level_codes), log_p_BC.shape)
    users_BCD = model.user_vectors(encoded, every_BC)
    scores_BN = np.full((len(histories), len(model.item_ids_N)), -np.inf, dtype=np.float32)
    for code in range(model.first_level_codes):
        members = np.flatnonzero(model.codes_NQ[:, 0] == code)
        inner_Bm = users_BCD[:, code] @ model.vectors_ND[members].T
        if model.normalise_lists and len(members):
            top_B1 = inner_Bm.max(1, keepdims=True)
            inner_Bm -= top_B1 + np.log(np.exp(inner_Bm - top_B1).sum(1, keepdims=True))
        if model.weigh_codes:
            inner_Bm += log_p_BC[:, code, None]
        scores_BN[:, members] = inner_Bm
    if codes:
        ranked_BC = np.argsort(-log_p_BC, axis=1, kind="stable")
        chosen_BC = np.zeros(log_p_BC.shape, dtype=bool)
        np.put_along_axis(chosen_BC, ranked_BC[:, :codes], True, axis=1)
        scores_BN[~chosen_BC[:, model.codes_NQ[:, 0]]] = -np.inf
    return scores_BN


def answer(model: RetrievalModel, histories: Sequence[History], now_ms: int, codes: int) -> Answers:
    """The best items outside the histories, ties by row."""
    scores_BN = score(model, histories, now_ms, codes)
    for b, history in enumerate(histories):
        scores_BN[b, model.rows(np.asarray(history.items, dtype=np.int64))] = -np.inf
    return best(model, scores_BN)


def best(model: RetrievalModel, scores_BN: np.ndarray) -> Answers:
    """The best `LIST_LENGTH` items by score."""
    top_BK = np.argpartition(-scores_BN, LIST_LENGTH, axis=1)[:, :LIST_LENGTH]
    top_BK.sort(axis=1)
    values_BK = np.take_along_axis(scores_BN, top_BK, axis=1)
    order_BK = np.argsort(-values_BK, axis=1, kind="stable")
    rows_BK = np.take_along_axis(top_BK, order_BK, axis=1)
    values_BK = np.take_along_axis(values_BK, order_BK, axis=1)
    return Answers(model.item_ids_N[rows_BK], values_BK)


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate SPARC from files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", required=True, type=Path)
    parser.add_argument("--items", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--until", help="last day of the log, YYYY-MM-DD")
    parser.add_argument("--codes", type=int, default=8, help="codes searched; 0 for all")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args(arguments)
    try:
        items = protocol.read_items(options.items)
        log = protocol.split(protocol.read_events(options.events))
        if options.until is not None:
            log = log.until(runner.day_of(options.until))
        config = OnlineSparcConfig(
            learner=dataclasses.replace(learner.LearnerConfig(), seed=options.seed),
            codes=options.codes,
        )
        model = OnlineSparc(items, config, options.device)
        result = runner.run(log, items, model, watch=runner.log_progress("sparc"))
        summary = runner.report(log, items, result, model) | {"seed": options.seed, "name": "sparc"}
        runner.write(options.out, result, summary)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(orjson.dumps(summary["metrics"], option=orjson.OPT_INDENT_2).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
