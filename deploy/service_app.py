"""The HTTP face of the retrieval service: requests in, answers of one snapshot out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import structlog
from fastapi import Body, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy import service_schema as schema
from deploy.metrics import Reading, ServiceMetrics
from deploy.registry import RegistryError, registered_versions
from deploy.serving_state import Query, ServingState
from deploy.snapshot_follower import SnapshotFollower
from deploy.user_histories import SequenceFollower, UserHistories
from indexer.snapshot import versions

log = structlog.get_logger(__name__)

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    422: {"model": schema.Problem, "description": "The request makes no sense."},
    413: {"model": schema.Problem, "description": "The body is too large."},
    503: {"model": schema.Problem, "description": "No snapshot is loaded yet."},
}
_NOT_READY = (
    "no snapshot is loaded yet: the indexer publishes the first one after the trainer's first "
    "handover; GET /health says when"
)


class RetrievalService:
    """What the routes need: the snapshots, the histories and a pool of threads.

    `follower` and `histories` are brought up to date by threads of their own.
    """

    def __init__(
        self,
        data_dir: Path,
        follower: SnapshotFollower,
        histories: UserHistories,
        sequences: SequenceFollower,
        threads: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._data_dir = data_dir
        self._follower = follower
        self._histories = histories
        self._sequences = sequences
        self._clock = clock
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="retrieve")
        self.metrics = ServiceMetrics(self._readings())

    async def retrieve(self, request: schema.RetrieveRequest) -> schema.RetrieveResponse:
        """Answer from the snapshot that serves now, in a thread of the pool.

        Raises:
            HTTPException: 503 before the first snapshot.
        """
        state = self._follower.state
        if state is None:
            raise HTTPException(503, _NOT_READY, headers={"Retry-After": "5"})
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._answer, state, request)

    def _answer(
        self, state: ServingState, request: schema.RetrieveRequest
    ) -> schema.RetrieveResponse:
        items, times, known = request.history, request.history_times, None
        if request.user_id is not None:
            history = self._histories.get(request.user_id)
            known = history is not None
            items, times = (history.items, history.times) if history else ([], [])
        origin = {None: "request", True: "known_user", False: "unknown_user"}[known]
        self.metrics.queries.labels(origin).inc()
        query = Query(
            items or [], times, request.now_ms, request.k, request.codes, request.exclude_seen
        )
        answer = state.answer(query, self._histories.latest_event_time_ms)
        self.metrics.retrieved_items.inc(len(answer.items))
        return schema.RetrieveResponse(
            version=state.version,
            known_user=known,
            now_ms=answer.now_ms,
            items=[
                schema.RetrievedItem(
                    item_id=item, score=score, code=code, code_probability=probability, **text
                )
                for item, score, code, probability, text in zip(
                    answer.items,
                    answer.scores,
                    answer.codes,
                    answer.code_probabilities,
                    state.titles(answer.items),
                    strict=True,
                )
            ],
            searched=[schema.SearchedCode(**vars(one)) for one in answer.searched],
        )

    def health(self) -> schema.Health:
        """Where the service stands."""
        state, pointer = self._follower.state, self._follower.pointer
        facts = state.snapshot.manifest.facts if state else {}
        return schema.Health(
            live=True,
            ready=state is not None,
            version=state.version if state else None,
            challenger_version=self._follower.challenger,
            decided_version=self._follower.decided,
            pinned=self._follower.pinned,
            digest=state.snapshot.manifest.digest if state else None,
            codebook_generation=facts.get("codebook_generation"),
            items=len(state.snapshot.lists) if state else 0,
            appended_items=len(state.snapshot.items) - facts.get("indexed_items", 0)
            if state and "indexed_items" in facts
            else 0,
            pointer_age_seconds=self._clock() - pointer.published_at / 1000 if pointer else None,
            trained_until_ms=state.event_time_ms if state else None,
            latest_event_ms=self._histories.latest_event_time_ms or None,
            users=self._histories.users,
            history_lag_records=self._sequences.lag_records,
            kafka_connected=self._sequences.connected,
            swaps=self._follower.swaps,
            last_error=self._follower.last_error,
        )

    def snapshots(self) -> list[schema.SnapshotVersion]:
        """Published snapshots on disk, newest first."""
        state = self._follower.state
        try:
            registered = registered_versions(self._data_dir)
        except RegistryError as error:
            log.warning("registered versions unknown", reason=str(error))
            registered = {}
        return [
            schema.SnapshotVersion(
                version=version,
                serving=state is not None and state.version == version,
                mlflow_version=registered.get(version),
            )
            for version in reversed(versions(self._data_dir))
        ]

    def close(self) -> None:
        """Wait for the answers under way."""
        self._pool.shutdown()

    def _readings(self) -> list[Reading]:
        follower, histories, sequences = self._follower, self._histories, self._sequences

        def of_state(value: Callable[[ServingState], float]) -> Callable[[], float | None]:
            return lambda: value(follower.state) if follower.state else None

        def since_pointer() -> float | None:
            pointer = follower.pointer
            return self._clock() - pointer.published_at / 1000 if pointer else None

        def behind() -> float | None:
            state, latest = follower.state, histories.latest_event_time_ms
            return max(0, latest - state.event_time_ms) / 1000 if state and latest else None

        return [
            Reading("ready", "1 once a snapshot is loaded.", lambda: float(bool(follower.state))),
            Reading("snapshot_version", "Snapshot that answers.", of_state(lambda s: s.version)),
            Reading(
                "items", "Items that can be retrieved.", of_state(lambda s: len(s.snapshot.lists))
            ),
            Reading("snapshot_age_seconds", "Since the pointer was last moved.", since_pointer),
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
        ]


class Edge:
    """Around every request: measures it, and answers 413 to a body of more than `limit` bytes.

    A body that does not announce its length is cut off at the limit.
    """

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics, limit: int) -> None:
        self._app = app
        self._metrics = metrics
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._limit:
                raise HTTPException(413, self._too_long)
            return message

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        announced = dict(scope["headers"]).get(b"content-length", b"0")
        app = self._app
        if announced.isdigit() and int(announced) > self._limit:
            app = JSONResponse({"detail": self._too_long}, 413)
        try:
            await app(scope, counted, noted)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - began
            self._metrics.request_seconds.labels(path, str(status)).observe(seconds)

    @property
    def _too_long(self) -> str:
        return f"the body is longer than {self._limit} bytes"


def create_app(service: RetrievalService, body_limit: int) -> FastAPI:
    """The application: routes over one service."""
    app = FastAPI(
        title="SPARC-stream retrieval",
        version="1",
        summary="Items for a user, from the snapshot that is served now.",
        redoc_url=None,
    )
    app.add_middleware(Edge, metrics=service.metrics, limit=body_limit)

    @app.exception_handler(RequestValidationError)
    async def explain(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": "; ".join(map(_in_words, error.errors()))}, 422)

    @app.post("/v1/retrieve", responses=_PROBLEMS, summary="Retrieve items for a user or a history")
    async def retrieve(
        request: Annotated[schema.RetrieveRequest, Body(openapi_examples=schema.REQUEST_EXAMPLES)],
    ) -> schema.RetrieveResponse:
        """The best items of the most probable codes, each searched with its own user vector."""
        return await service.retrieve(request)

    @app.get("/v1/snapshots", summary="Published snapshots, newest first")
    def snapshots() -> list[schema.SnapshotVersion]:
        """Those on disk; the registry holds all of them."""
        return service.snapshots()

    @app.get("/health", summary="Liveness, readiness, versions and lag")
    async def health() -> schema.Health:
        """Always 200 while the process lives; `ready` says whether it can answer."""
        return service.health()

    @app.get("/metrics", summary="Metrics in Prometheus' text format", response_class=Response)
    async def metrics() -> Response:
        """Counters, gauges and the latency histogram."""
        return Response(service.metrics.exposition(), media_type="text/plain; version=0.0.4")

    return app


def _in_words(error: dict[str, Any]) -> str:
    """`history.0: Input should be a valid integer (given 'x')`."""
    where = ".".join(str(part) for part in error["loc"] if part != "body")
    if error["type"] == "json_invalid":
        return f"the body is not JSON: {error.get('ctx', {}).get('error', error['msg'])}"
    if isinstance(error.get("input"), bytes):
        return "send the body as JSON, with Content-Type: application/json"
    words = error["msg"].removeprefix("Value error, ")
    if error["type"] not in ("value_error", "missing", "extra_forbidden"):
        words += f" (given {repr(error.get('input'))[:60]})"
    return f"{where}: {words}" if where else words
