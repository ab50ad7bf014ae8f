"""What is kept of an answer: it is counted for its arm and logged, and so is that of a shadow arm.

A shadow arm is asked in a thread of its own, for whom nobody waits; where it does not keep up, some
of its answers are left out, and counted.
"""

from __future__ import annotations

from contextlib import suppress

import structlog
from prometheus_client import Counter

from deploy.service.answer_log import AnswerLog, ArmOf
from deploy.service.arms import Arms
from deploy.service.work_queue import QueueFull, WorkQueue
from indexer.search.query import Answer, Query
from indexer.search.retriever import Retriever

log = structlog.get_logger(__name__)


class AnswerRecord:
    """Takes answers from any thread.

    Args:
        answers: the log; None: nothing is logged.
        counted: answers by split and arm.
        shadows: where shadow arms answer.
    """

    def __init__(self, answers: AnswerLog | None, counted: Counter, shadows: WorkQueue) -> None:
        self._answers = answers
        self._counted = counted
        self._shadows = shadows

    def take(
        self, arms: Arms, user_id: int | None, query: Query, answer: Answer, now_ms: int
    ) -> None:
        """Keep an answer that is given, and have the user's shadow arm asked the same.

        Args:
            arms: that answered.
            user_id: None where a history was given.
            query: that was asked.
            answer: to it.
            now_ms: the time that it was answered at, where the query names none.
        """
        name, retriever = arms.of(user_id)
        split = arms.split.name if arms.split is not None else None
        self._keep(ArmOf(split, name), retriever, user_id, query, answer)
        if (shadow := arms.shadow_of(user_id)) is None:
            return
        place, other = ArmOf(split, shadow[0], shadow=True), shadow[1]

        def ask() -> None:
            try:
                self._keep(place, other, user_id, query, other.answer(query, now_ms))
            except (ValueError, RuntimeError) as error:  # nobody waits who would be told
                log.error("a shadow arm does not answer", arm=place.arm, reason=str(error))

        with suppress(QueueFull):
            self._shadows.submit(ask)

    def _keep(
        self, place: ArmOf, retriever: Retriever, user_id: int | None, query: Query, answer: Answer
    ) -> None:
        if place.split is not None:
            self._counted.labels(place.split, place.arm).inc()
        if self._answers is not None:
            self._answers.add(retriever.version, user_id, query, answer, place)
