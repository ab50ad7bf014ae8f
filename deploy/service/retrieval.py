"""What the routes of the service need: the snapshots, the histories, and threads that answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import structlog
from fastapi import HTTPException

from deploy.monitoring import moment
from deploy.monitoring.freshness import Freshness
from deploy.monitoring.moment import Moment
from deploy.monitoring.part_metrics import PartMetrics
from deploy.release.errors import RegistryError
from deploy.release.judge import RecentEvents
from deploy.release.ledger import registered_versions
from deploy.service import responses, schema
from deploy.service.answer_log import AnswerLog
from deploy.service.answer_record import AnswerRecord
from deploy.service.arms import ArmFollower, Arms
from deploy.service.config import GPU_WAIT_MS, Worker
from deploy.service.explanation import explained
from deploy.service.health import since_pointer
from deploy.service.metrics import ServiceMetrics, read_metrics, readings
from deploy.service.popularity_baseline import PopularityBaseline
from deploy.service.sequence_follower import SequenceFollower
from deploy.service.snapshot_follower import SnapshotFollower
from deploy.service.together import MOST, Together
from deploy.service.user_histories import UserHistories
from deploy.service.work_queue import QueueFull, TooSlow, WorkQueue
from deploy.service.workers import STALE_SECONDS, others
from indexer.catalogue.conditions import FilterError
from indexer.catalogue.filter import Filter
from indexer.search.query import Answer, Query, QueryError
from indexer.search.retriever import Retriever
from indexer.snapshots.snapshot_reading import versions
from streaming.bounds import DAY_MS

log = structlog.get_logger(__name__)

T = TypeVar("T")

LIVE_MS = DAY_MS
"""Clicks are live where the newest is not older; else they are of a log."""

NOT_READY = (
    "no snapshot is loaded yet: the indexer publishes the first one after the trainer's first "
    "handover; GET /health says when"
)


class RetrievalService:
    """Answers from the snapshot that serves now.

    `arms`, which moves `follower`, and `histories` are brought up to date by threads of their own.
    Only the first worker measures freshness, and shows the metrics of all.
    """

    def __init__(
        self,
        worker: Worker,
        follower: SnapshotFollower,
        histories: UserHistories,
        sequences: SequenceFollower,
        *,
        popularity: PopularityBaseline | None = None,
        recent: RecentEvents | None = None,
        answers: AnswerLog | None = None,
        clock: Callable[[], Moment] = moment.now,
    ) -> None:
        self.data_dir = data_dir = worker.data_dir
        self.follower = follower
        self.histories = histories
        self.sequences = sequences
        self.popularity = popularity or PopularityBaseline()
        self.recent = recent or RecentEvents()
        self.answers = answers
        self.answered = 0
        self.clock = clock
        self._began = clock()
        self._worker = worker
        config = worker.config
        self.arms = ArmFollower(data_dir, follower)
        wait_ms = config.batch_wait_ms
        if wait_ms is None:
            wait_ms = GPU_WAIT_MS if follower.device is not None else 0.0
        room = config.queue + (config.threads * (MOST - 1) if wait_ms else 0)
        self.queue = WorkQueue("retrieve", config.threads, room, config.timeout_seconds)
        self.together = None
        if wait_ms:
            self.together = Together(self.queue, self._answered_now, wait_ms / 1000)
        self.shadows = WorkQueue("shadow", 1, config.queue, config.timeout_seconds)
        if worker.first:
            token = config.bearer()
            self.freshness = Freshness(clock)
            histories.listeners.append(self.freshness.taken_in)
            sequences.measure(self.freshness)
            follower.swapped = self.freshness.serves
            self.metrics = ServiceMetrics(
                readings(self),
                [PartMetrics(data_dir), self.freshness],
                lambda: read_metrics(data_dir, token),
            )
        else:
            self.metrics = ServiceMetrics(readings(self))
        self.record = AnswerRecord(answers, self.metrics.arm_answers, self.shadows)
        follower.changed = self.popularity.leave_out
        follower.served = self._began_to_serve
        follower.texts = histories.item_texts

    def retriever(self) -> Retriever:
        """What to answer from, to be asked once per request.

        Raises:
            HTTPException: 503 before the first snapshot.
        """
        retriever = self.follower.retriever
        if retriever is None:
            raise HTTPException(503, NOT_READY, headers={"Retry-After": "5"})
        return retriever

    def serving(self) -> Arms:
        """What to answer from by arm, to be asked once per request; raises as `retriever`."""
        return self.arms.now() or Arms(self.retriever())

    async def retrieve(self, request: schema.RetrieveRequest) -> schema.RetrieveResponse:
        """Answer one request.

        Raises:
            HTTPException: 503 before the first snapshot, 429 where the queue is full, 504 where
                the answer takes too long.
        """
        serving = self.serving()
        if self.together is not None:
            return await self._patiently(self.together.ask(request))
        return (await self.queued(lambda: self._answers(serving, [request], ["filter"])))[0]

    async def retrieve_batch(
        self, requests: Sequence[schema.RetrieveRequest]
    ) -> list[schema.RetrieveResponse]:
        """Answer several requests from one snapshot of each arm; raises as `retrieve`."""
        serving = self.serving()
        places = [f"queries.{at}.filter" for at in range(len(requests))]
        return await self.queued(lambda: self._answers(serving, requests, places))

    async def explain(self, request: schema.RetrieveRequest) -> schema.Explanation:
        """Answer one request and say where it comes from; raises as `retrieve`."""
        arm, retriever = self.serving().of(request.user_id)

        def work() -> schema.Explanation:
            query, known = self._query(request)
            answer = retriever.answer(query, self.now_ms())
            return explained(
                retriever, query, answer, self._response(request, retriever, answer, known, arm)
            )

        return await self.queued(work)

    async def similar(self, request: schema.SimilarRequest) -> schema.SimilarResponse:
        """Items like one item.

        Raises:
            HTTPException: as `retrieve`, and 404 for an item that is not listed.
        """
        arm, retriever = self.serving().of(request.user_id)

        def work() -> schema.SimilarResponse:
            query, known = self._query(request)
            try:
                answer = retriever.similar(request.item_id, query, self.now_ms())
            except QueryError as error:
                raise HTTPException(404, str(error)) from error
            self._count(request, known, len(answer.items))
            return responses.similar(retriever, answer, known, arm)

        return await self.queued(work)

    def popular(self, k: int) -> schema.PopularResponse:
        """The k most popular items, the same for everybody; raises 503 as `retriever`."""
        ids = self.popularity.best(k, self.now_ms())
        titles = self.retriever().titles(ids)
        return schema.PopularResponse(
            items=[
                schema.PopularItem(item_id=item, **text)
                for item, text in zip(ids, titles, strict=True)
            ]
        )

    def now_ms(self) -> int:
        """The time of a query that names none: of the newest click, or now where these are live.

        So what is to be answered until noon is not at noon, though nobody clicked since.
        """
        newest, now = self.histories.latest_event_time_ms, int(self.clock().wall * 1000)
        return max(newest, now) if now - newest < LIVE_MS else newest

    async def queued(self, work: Callable[[], T], queue: WorkQueue | None = None) -> T:
        """Do `work` in a thread of the queue; refusals become 429 and 504."""
        return await self._patiently((queue or self.queue).run(work))

    @staticmethod
    async def _patiently(answer: Awaitable[T]) -> T:
        try:
            return await answer
        except QueueFull:
            raise HTTPException(
                429,
                "too many requests wait already; try again in a moment",
                headers={"Retry-After": "1"},
            ) from None
        except FilterError as error:
            raise HTTPException(422, str(error)) from error
        except TooSlow:
            raise HTTPException(
                504, "the answer took too long and was given up; ask for less, or try again later"
            ) from None

    def _query(self, request: schema.Question, place: str = "filter") -> tuple[Query, bool | None]:
        items, times, known = request.history, request.history_times, None
        if request.user_id is not None:
            history = self.histories.get(request.user_id)
            known = history is not None
            items, times = (history.items, history.times) if history else ([], [])
        query = Query(
            items or [],
            times,
            request.now_ms,
            request.k,
            request.codes,
            request.exclude_seen,
            request.exclude,
            None if request.filter is None else Filter.parse(request.filter, place),
            request.include_only,
        )
        return query, known

    def _answered_now(
        self, requests: Sequence[schema.RetrieveRequest]
    ) -> list[schema.RetrieveResponse]:
        return self._answers(self.serving(), requests, ["filter"] * len(requests))

    def _answers(
        self,
        serving: Arms,
        requests: Sequence[schema.RetrieveRequest],
        places: Sequence[str],
    ) -> list[schema.RetrieveResponse]:
        asked = [self._query(*one) for one in zip(requests, places, strict=True)]
        arms = [serving.of(request.user_id) for request in requests]
        now_ms = self.now_ms()
        found: dict[int, Answer] = {}
        for retriever in dict.fromkeys(retriever for _, retriever in arms):
            mine = [at for at, (_, one) in enumerate(arms) if one is retriever]
            answers = retriever.answers([asked[at][0] for at in mine], now_ms)
            found |= zip(mine, answers, strict=True)
        given = []
        for at, (request, (query, known)) in enumerate(zip(requests, asked, strict=True)):
            arm, retriever = arms[at]
            self.record.take(serving, request.user_id, query, found[at], now_ms)
            given.append(self._response(request, retriever, found[at], known, arm))
        return given

    def _response(
        self,
        request: schema.Question,
        retriever: Retriever,
        answer: Answer,
        known: bool | None,
        arm: str | None,
    ) -> schema.RetrieveResponse:
        self._count(request, known, len(answer.items))
        return responses.retrieved(retriever, answer, known, arm)

    def _count(self, request: schema.Question, known: bool | None, items: int) -> None:
        origin = {None: "request", True: "known_user", False: "unknown_user"}[known]
        nothing = request.user_id is None and request.history is None
        self.metrics.queries.labels("none" if nothing else origin).inc()
        self.metrics.retrieved_items.inc(items)
        self.answered += 1

    def answered_by_all(self) -> int:
        """Queries that all workers have answered."""
        return self.answered + sum(one["answered"] for one in others(self.data_dir))

    def who_is_away(self) -> str:
        """What to say of workers that have not noted that they live; empty where all have."""
        together, living = self._worker.config.workers, 1 + len(others(self.data_dir))
        starting = self.clock().since(self._began) < STALE_SECONDS
        if living >= together or starting or not self._worker.first:
            return ""
        return f"{living} of {together} workers live: the service's log says why the others ended"

    def snapshots(self) -> list[schema.SnapshotVersion]:
        """Published snapshots on disk, newest first."""
        retriever = self.follower.retriever
        try:
            registered = registered_versions(self.data_dir)
        except RegistryError as error:
            log.warning("registered versions unknown", reason=str(error))
            registered = {}
        return [
            schema.SnapshotVersion(
                version=version,
                serving=retriever is not None and retriever.version == version,
                mlflow_version=registered.get(version),
            )
            for version in reversed(versions(self.data_dir))
        ]

    def _began_to_serve(self, retriever: Retriever) -> None:
        """A version took over: note how long that took since it was published."""
        pointer, seconds = self.follower.pointer, since_pointer(self)
        if pointer is not None and pointer.version == retriever.version and seconds is not None:
            self.metrics.publish_to_serve_seconds.observe(seconds)

    def close(self) -> None:
        """Wait for the answers under way."""
        self.queue.close()
        self.shadows.close()
        with suppress(OSError):  # a full disk: what was saved before is kept
            self.popularity.save()
