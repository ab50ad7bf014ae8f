"""What the routes of the service need: the snapshots, the histories, and threads that answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
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
from deploy.service import schema as schema
from deploy.service.answer_log import AnswerLog
from deploy.service.explanation import explained
from deploy.service.metrics import Reading, ServiceMetrics
from deploy.service.popularity_baseline import PopularityPeer
from deploy.service.sequence_follower import SequenceFollower
from deploy.service.snapshot_follower import SnapshotFollower
from deploy.service.user_histories import UserHistories
from deploy.service.work_queue import QueueFull, TooSlow, WorkQueue
from deploy.service.workers import others, read_metrics
from indexer.search.retriever import Answer, Query, Retriever
from indexer.snapshots.snapshot import versions

log = structlog.get_logger(__name__)

T = TypeVar("T")

NOT_READY = (
    "no snapshot is loaded yet: the indexer publishes the first one after the trainer's first "
    "handover; GET /health says when"
)


class RetrievalService:
    """Answers from the snapshot that serves now.

    `follower` and `histories` are brought up to date by threads of their own. Only the `first`
    worker measures freshness, and shows the metrics of all.
    """

    def __init__(
        self,
        data_dir: Path,
        follower: SnapshotFollower,
        histories: UserHistories,
        sequences: SequenceFollower,
        threads: int,
        *,
        queue: int = 64,
        timeout_seconds: float = 2.0,
        popularity: PopularityPeer | None = None,
        recent: RecentEvents | None = None,
        answers: AnswerLog | None = None,
        clock: Callable[[], Moment] = moment.now,
        token: str = "",
        first: bool = True,
    ) -> None:
        self.data_dir = data_dir
        self.follower = follower
        self.histories = histories
        self.sequences = sequences
        self.popularity = popularity or PopularityPeer()
        self.recent = recent or RecentEvents()
        self.answers = answers
        self.answered = 0
        self.clock = clock
        self.queue = WorkQueue("retrieve", threads, queue, timeout_seconds)
        if first:
            self.freshness = Freshness(clock)
            histories.listeners.append(self.freshness.taken_in)
            sequences.measure(self.freshness)
            follower.swapped = self.freshness.serves
            self.metrics = ServiceMetrics(
                self._readings(),
                [PartMetrics(data_dir), self.freshness],
                lambda: read_metrics(data_dir, token),
            )
        else:
            self.metrics = ServiceMetrics(self._readings())
        follower.withdrew = self.popularity.withdraw
        follower.served = self._began_to_serve

    def state(self) -> Retriever:
        """The state to answer from, to be asked once per request.

        Raises:
            HTTPException: 503 before the first snapshot.
        """
        state = self.follower.state
        if state is None:
            raise HTTPException(503, NOT_READY, headers={"Retry-After": "5"})
        return state

    async def retrieve(self, request: schema.RetrieveRequest) -> schema.RetrieveResponse:
        """Answer one request.

        Raises:
            HTTPException: 503 before the first snapshot, 429 where the queue is full, 504 where
                the answer takes too long.
        """
        state = self.state()
        return (await self.queued(lambda: self._answers(state, [request])))[0]

    async def retrieve_batch(
        self, requests: Sequence[schema.RetrieveRequest]
    ) -> list[schema.RetrieveResponse]:
        """Answer several requests from one snapshot; raises as `retrieve`."""
        state = self.state()
        return await self.queued(lambda: self._answers(state, requests))

    async def explain(self, request: schema.RetrieveRequest) -> schema.Explanation:
        """Answer one request and say where it comes from; raises as `retrieve`."""
        state = self.state()

        def work() -> schema.Explanation:
            query, known = self._query(request)
            answer = state.answer(query, self.histories.latest_event_time_ms)
            return explained(state, query, answer, self._response(state, answer, known))

        return await self.queued(work)

    def popular(self, k: int) -> schema.PopularResponse:
        """The k most popular items, the same for everybody; raises 503 as `state`."""
        ids = self.popularity.best(k)
        titles = self.state().titles(ids)
        return schema.PopularResponse(
            items=[
                schema.PopularItem(item_id=item, **text)
                for item, text in zip(ids, titles, strict=True)
            ]
        )

    async def queued(self, work: Callable[[], T], queue: WorkQueue | None = None) -> T:
        """Do `work` in a thread of the queue; refusals become 429 and 504."""
        queue = queue or self.queue
        try:
            return await queue.run(work)
        except QueueFull:
            raise HTTPException(
                429,
                "too many requests wait already; try again in a moment",
                headers={"Retry-After": "1"},
            ) from None
        except TooSlow:
            raise HTTPException(
                504, "the answer took too long and was given up; ask for less, or try again later"
            ) from None

    def _query(self, request: schema.RetrieveRequest) -> tuple[Query, bool | None]:
        items, times, known = request.history, request.history_times, None
        if request.user_id is not None:
            history = self.histories.get(request.user_id)
            known = history is not None
            items, times = (history.items, history.times) if history else ([], [])
        origin = {None: "request", True: "known_user", False: "unknown_user"}[known]
        self.metrics.queries.labels(origin).inc()
        query = Query(
            items or [], times, request.now_ms, request.k, request.codes, request.exclude_seen
        )
        return query, known

    def _answers(
        self, state: Retriever, requests: Sequence[schema.RetrieveRequest]
    ) -> list[schema.RetrieveResponse]:
        asked = [self._query(request) for request in requests]
        answers = state.answers([query for query, _ in asked], self.histories.latest_event_time_ms)
        if self.answers is not None:
            for request, (query, _), answer in zip(requests, asked, answers, strict=True):
                self.answers.add(state.version, request.user_id, query, answer)
        return [
            self._response(state, answer, known)
            for answer, (_, known) in zip(answers, asked, strict=True)
        ]

    def _response(
        self, state: Retriever, answer: Answer, known: bool | None
    ) -> schema.RetrieveResponse:
        self.metrics.retrieved_items.inc(len(answer.items))
        self.answered += 1
        return schema.RetrieveResponse(
            version=state.version,
            known_user=known,
            now_ms=answer.now_ms,
            items=[
                schema.RetrievedItem(
                    item_id=item,
                    score=score,
                    code=code,
                    code_probability=probability,
                    propensity=propensity,
                    **text,
                )
                for item, score, code, probability, propensity, text in zip(
                    answer.items,
                    answer.scores,
                    answer.codes,
                    answer.code_probabilities,
                    answer.propensities,
                    state.titles(answer.items),
                    strict=True,
                )
            ],
            searched=[schema.SearchedCode(**vars(one)) for one in answer.searched],
        )

    def answered_by_all(self) -> int:
        """Queries that all workers have answered."""
        return self.answered + sum(one["answered"] for one in others(self.data_dir))

    def health(self) -> schema.Health:
        """Where the service stands."""
        state = self.follower.state
        facts = state.snapshot.manifest.facts if state else {}
        return schema.Health(
            live=True,
            ready=state is not None,
            version=state.version if state else None,
            challenger_version=self.follower.challenger,
            decided_version=self.follower.decided,
            pinned=self.follower.pinned,
            digest=state.snapshot.manifest.digest if state else None,
            codebook_generation=facts.get("codebook_generation"),
            items=len(state.snapshot.lists) if state else 0,
            appended_items=len(state.loaded.items) - facts.get("indexed_items", 0)
            if state and "indexed_items" in facts
            else 0,
            pointer_age_seconds=self._since_pointer(),
            trained_until_ms=state.event_time_ms if state else None,
            latest_event_ms=self.histories.latest_event_time_ms or None,
            users=self.histories.users,
            history_lag_records=self.sequences.lag_records,
            kafka_connected=self.sequences.connected,
            kafka_problem=self.sequences.problem,
            swaps=self.follower.swaps,
            last_error=self.follower.last_error,
        )

    def snapshots(self) -> list[schema.SnapshotVersion]:
        """Published snapshots on disk, newest first."""
        state = self.follower.state
        try:
            registered = registered_versions(self.data_dir)
        except RegistryError as error:
            log.warning("registered versions unknown", reason=str(error))
            registered = {}
        return [
            schema.SnapshotVersion(
                version=version,
                serving=state is not None and state.version == version,
                mlflow_version=registered.get(version),
            )
            for version in reversed(versions(self.data_dir))
        ]

    def _since_pointer(self) -> float | None:
        """Seconds since the pointer was moved, which it says of itself by the wall clock."""
        pointer = self.follower.pointer
        return max(0.0, self.clock().wall - pointer.published_at / 1000) if pointer else None

    def _began_to_serve(self, state: Retriever) -> None:
        """A version took over: note how long that took since it was published."""
        pointer = self.follower.pointer
        if pointer is not None and pointer.version == state.version:
            seconds = self.clock().wall - pointer.published_at / 1000
            self.metrics.publish_to_serve_seconds.observe(max(0.0, seconds))

    def close(self) -> None:
        """Wait for the answers under way."""
        self.queue.close()
        with suppress(OSError):  # a full disk: what was saved before is kept
            self.popularity.save()

    def _readings(self) -> list[Reading]:
        follower, histories, sequences = self.follower, self.histories, self.sequences

        def of_state(value: Callable[[Retriever], float]) -> Callable[[], float | None]:
            return lambda: value(follower.state) if follower.state else None

        def behind() -> float | None:
            state, latest = follower.state, histories.latest_event_time_ms
            return max(0, latest - state.event_time_ms) / 1000 if state and latest else None

        return [
            Reading("ready", "1 once a snapshot is loaded.", lambda: float(bool(follower.state))),
            Reading("snapshot_version", "Snapshot that answers.", of_state(lambda s: s.version)),
            Reading("snapshot_pinned", "1 while pinned.", lambda: float(follower.pinned)),
            Reading(
                "items", "Items that can be retrieved.", of_state(lambda s: len(s.snapshot.lists))
            ),
            Reading(
                "snapshot_age_seconds", "Since the pointer was last moved.", self._since_pointer
            ),
            Reading("snapshot_load_seconds", "Last load.", lambda: follower.load_seconds),
            Reading("snapshot_swaps", "Snapshots swapped in.", lambda: follower.swaps, True),
            Reading("snapshot_failures", "Snapshots refused.", lambda: follower.failures, True),
            Reading(
                "model_behind_seconds",
                "Event time between the newest click known and the newest one learnt.",
                behind,
            ),
            Reading("history_users", "Users with a history.", lambda: histories.users),
            Reading("history_lag_records", "Not taken in yet.", lambda: sequences.lag_records),
            Reading("history_records", "Taken in.", lambda: sequences.stored_records, True),
            Reading("history_poisoned", "Skipped.", lambda: histories.poisoned, True),
            Reading("kafka_connected", "1 while connected.", lambda: float(sequences.connected)),
            Reading(
                "history_event_time_seconds",
                "Newest click known, seconds since 1970.",
                lambda: histories.latest_event_time_ms / 1000,
            ),
            Reading(
                "answers_logged",
                "Answers in the log's files.",
                lambda: self.answers.written if self.answers else 0,
                True,
            ),
            Reading(
                "answers_not_logged",
                "Answers that the log lost.",
                lambda: self.answers.lost if self.answers else 0,
                True,
            ),
            Reading("queue_requests", "Waiting or being answered.", lambda: self.queue.waiting),
            Reading("queue_refused", "Answered 429.", lambda: self.queue.refused, True),
            Reading("queue_timed_out", "Answered 504.", lambda: self.queue.timed_out, True),
            Reading(
                "popularity_recall_at_50",
                "Recall@50 of the popularity peer over its last queries, a ratio.",
                lambda: self.popularity.window_recall,
            ),
        ]
