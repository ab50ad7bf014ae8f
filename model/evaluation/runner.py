"""Play the prequential protocol with any model, and write what it answered and how good it was.

`DIR/predictions.parquet` holds every answer, `DIR/report.json` the metrics, weekly curves, wall
times and what the model says of itself. Day by day the model first answers, having seen only
earlier days, and then learns: each event of the day once, and at most 4 older events again for
each new one. The model declares how many it replayed; a model over the budget is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import structlog

from model.evaluation import gains, metrics, predictions, protocol, weekly_curves
from model.evaluation.online_model import Answers, OnlineModel
from model.evaluation.protocol import REPLAY_BUDGET, Day, EventLog, ProtocolError
from streaming.items import Item

logger = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Run:
    """What came of a run.

    Attributes:
        predictions: an answer to every query of the protocol.
        learnt: events learnt after the warm-up.
        replayed: older events learnt again after the warm-up.
        seconds: wall time spent in "warm_up", "answer" and "learn".
    """

    predictions: predictions.Predictions
    learnt: int
    replayed: int
    seconds: dict[str, float]


def run(
    log: EventLog,
    items: Sequence[Item],
    model: OnlineModel,
    *,
    watch: Callable[[Day, Answers], None] = lambda day, answers: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Run:
    """Drive a model through the protocol.

    Args:
        log: the events and where the warm-up ends.
        items: the catalogue, ascending by id.
        model: a fresh model.
        watch: called with each day and its answers before the model learns it.
        clock: seconds, for the wall times.

    Raises:
        ProtocolError: the log does not fit the catalogue, an answer breaks the protocol, or the
            model replayed more than its budget.
    """
    protocol.check_log(log, list(items))
    catalogue_N = np.array([item.item_id for item in items], dtype=np.int64)
    seconds = dict.fromkeys(("warm_up", "answer", "learn"), 0.0)
    learnt = replayed = 0
    parts = []

    def lap(name: str, since: float) -> float:
        now = clock()
        seconds[name] += now - since
        return now

    started = clock()
    model.warm_up(log.warm_up())
    lap("warm_up", started)
    for day in log.days():
        started = clock()
        if len(day.queries):
            answers = model.answer(day.queries)
            started = lap("answer", started)
            try:
                predictions.check_answers(day.queries.histories, *answers, catalogue_N)
            except ProtocolError as error:
                raise ProtocolError(f"{iso_day(day.queries.day)}: {error}") from error
            parts.append(predictions.of_day(day, *answers))
            watch(day, answers)
            started = clock()
        again = model.learn(day.events)
        lap("learn", started)
        if not 0 <= again <= REPLAY_BUDGET * len(day.events):
            raise ProtocolError(
                f"{iso_day(day.queries.day)}: the model replayed {again} older events for "
                f"{len(day.events)} new ones; at most {REPLAY_BUDGET} for each are allowed"
            )
        learnt += len(day.events)
        replayed += again
    return Run(predictions.join(parts), learnt, replayed, seconds)


def report(log: EventLog, items: Sequence[Item], run: Run, model: OnlineModel) -> dict[str, Any]:
    """Metrics, weekly curves, wall time and the model's facts, as plain JSON values."""
    answers = run.predictions
    return {
        "metrics": metrics.report(log.events, items, answers),
        "weekly": weekly_curves.weekly(log.events, items, answers),
        "learnt_events": run.learnt,
        "replayed_events": run.replayed,
        "seconds": {name: round(value, 3) for name, value in run.seconds.items()},
        "warm_up_until": iso_day(log.warm_up_day),
        "model": model.facts(),
    }


def write(directory: Path, run: Run, report: dict[str, Any]) -> None:
    """Write `predictions.parquet` and `report.json` into a directory, made where absent."""
    directory.mkdir(parents=True, exist_ok=True)
    predictions.write(directory / "predictions.parquet", run.predictions)
    text = orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)
    (directory / "report.json").write_bytes(text + b"\n")


def iso_day(day: int) -> str:
    """Days since 1970-01-01 as YYYY-MM-DD."""
    return datetime.fromtimestamp(day * protocol.SECONDS_PER_DAY, UTC).date().isoformat()


def day_of(text: str) -> int:
    """YYYY-MM-DD as days since 1970-01-01.

    Raises:
        ValueError: the text is no such date.
    """
    try:
        return (date.fromisoformat(text) - date(1970, 1, 1)).days
    except ValueError as error:
        raise ValueError(f"{text!r} is no day: write it as YYYY-MM-DD ({error})") from error


def log_progress(name: str) -> Callable[[Day, Answers], None]:
    """Log recall once a week."""
    hits, asked, next_day = 0.0, 0, 0

    def watch(day: Day, answers: Answers) -> None:
        nonlocal hits, asked, next_day
        rank_R = gains.ranks(answers.items_BK[day.query_R], day.targets_R)
        hits, asked = hits + float(np.count_nonzero(rank_R)), asked + len(rank_R)
        if day.queries.day >= next_day:
            recall = round(hits / asked, 4)
            logger.info("week", model=name, day=iso_day(day.queries.day), recall_so_far=recall)
            next_day = day.queries.day + 7

    return watch
