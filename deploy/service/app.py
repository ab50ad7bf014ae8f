"""The HTTP face of the retrieval service: requests in, answers of one snapshot out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, FastAPI, Query, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException

from deploy.http.door import Door
from deploy.service import schema as schema
from deploy.service.health import health_of
from deploy.service.middleware import Edge
from deploy.service.retrieval import RetrievalService
from deploy.service.workers import Forwarding

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": schema.Problem, "description": "The request names no host, or several."},
    401: {"model": schema.Problem, "description": "The token is missing or wrong."},
    403: {"model": schema.Problem, "description": "A page of another origin asks."},
    413: {"model": schema.Problem, "description": "The body is too large."},
    421: {"model": schema.Problem, "description": "The service does not go by the host's name."},
    422: {"model": schema.Problem, "description": "The request makes no sense."},
    429: {"model": schema.Problem, "description": "Too many requests wait already."},
    503: {"model": schema.Problem, "description": "No snapshot is loaded yet."},
    504: {"model": schema.Problem, "description": "The answer took too long."},
}

Question = Annotated[schema.RetrieveRequest, Body(openapi_examples=schema.REQUEST_EXAMPLES)]


def create_app(
    service: RetrievalService,
    body_limit: int,
    token: str = "",
    *,
    hosts: Sequence[str] = (),
    forwarding: Forwarding | None = None,
    ingestion: Callable[[Callable[..., Any]], APIRouter] | None = None,
) -> FastAPI:
    """The application: routes over one service, behind the door and the edge.

    Args:
        service: what answers.
        body_limit: longest body in bytes.
        token: asked of every request; empty: nobody is asked.
        hosts: names that requests may come under, see `Door`.
        forwarding: passes on what is not this worker's.
        ingestion: makes the routes by which clicks and items come in.
    """
    app = FastAPI(
        title="SPARC-stream retrieval",
        version="1",
        summary="Items for a user, from the snapshot that is served now.",
        redoc_url=None,
        docs_url=None,  # FastAPI's page asks another host for its scripts
    )
    app.add_middleware(
        Edge, metrics=service.metrics, limit=body_limit, token=token, forwarding=forwarding
    )
    app.add_middleware(Door, hosts=hosts)  # the last one added is the first one asked

    @app.exception_handler(StarletteHTTPException)
    async def explain_unreadable(request: Request, error: StarletteHTTPException) -> Response:
        if error.status_code != 400:
            return await http_exception_handler(request, error)
        # FastAPI's word for a body that it cannot parse and that raises something else than usual.
        return JSONResponse(
            {"detail": "the body is not JSON in UTF-8, or it is nested too deeply"}, 422
        )

    @app.exception_handler(RequestValidationError)
    async def explain_refusal(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": "; ".join(map(_in_words, error.errors()))}, 422)

    @app.post(
        "/v1/retrieve",
        response_model=schema.RetrieveResponse,
        responses=_PROBLEMS,
        summary="Retrieve items for a user or a history",
    )
    async def retrieve(request: Question) -> Response:
        """The best items of the most probable codes, each searched with its own user vector.

        An unknown user and an empty history are answered from the interest prior.
        """
        return _as_json(await service.retrieve(request))

    @app.post(
        "/v1/retrieve/batch",
        response_model=schema.BatchResponse,
        responses=_PROBLEMS,
        summary="Retrieve for several at once",
    )
    async def retrieve_batch(request: schema.BatchRequest) -> Response:
        """All queries are answered from one snapshot, in their order."""
        answers = await service.retrieve_batch(request.queries)
        return _as_json(schema.BatchResponse(answers=answers))

    @app.post(
        "/v1/similar",
        response_model=schema.SimilarResponse,
        responses=_PROBLEMS
        | {404: {"model": schema.Problem, "description": "The item is not listed."}},
        summary="Retrieve items like an item",
    )
    async def similar(request: schema.SimilarRequest) -> Response:
        """What the same users clicked, and what lies near it, whoever looks at it or for a user."""
        return _as_json(await service.similar(request))

    @app.post("/v1/explain", responses=_PROBLEMS, summary="Retrieve, and say why")
    async def explain(request: Question) -> schema.Explanation:
        """The answer, the clicks it rests on, and what each searched code brought."""
        return await service.explain(request)

    @app.get("/v1/popular", summary="What many click now", responses=_some(401, 422, 503))
    async def popular(
        k: Annotated[int, Query(ge=1, le=50, description="Number of items.")] = 50,
    ) -> schema.PopularResponse:
        """The same for everybody: the yardstick of a recommender, and its last resort."""
        return service.popular(k)

    @app.get("/v1/snapshots", summary="Published snapshots, newest first", responses=_some(401))
    def snapshots() -> list[schema.SnapshotVersion]:
        """Those on disk; the registry holds all of them."""
        return service.snapshots()

    @app.get("/health", summary="Liveness, readiness, versions and lag", responses=_some())
    async def health() -> schema.Health:
        """Always 200 while the process lives; `ready` says whether it can answer."""
        return health_of(service)

    @app.get("/ready", summary="Readiness", responses=_some(503))
    async def ready() -> schema.Ready:
        """200 once a snapshot is loaded, 503 before."""
        retriever = service.retriever()
        return schema.Ready(version=retriever.version)

    @app.get(
        "/metrics",
        summary="Metrics in Prometheus' text format",
        response_class=Response,
        responses=_some(401),
    )
    def metrics() -> Response:
        """Counters, gauges and the latency histogram, of all workers."""
        return Response(service.metrics.exposition(), media_type="text/plain; version=0.0.4")

    if ingestion is not None:
        app.include_router(ingestion(_some))
    return app


def _as_json(answer: BaseModel) -> Response:
    """An answer that is known to fit: FastAPI would check it item by item."""
    return Response(answer.model_dump_json(), media_type="application/json")


def _some(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These, and what the door says."""
    return {status: _PROBLEMS[status] for status in (400, *statuses, 421)}


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
