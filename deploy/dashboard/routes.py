"""The routes of the dashboard: its files, and the JSON that the page asks for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

from deploy.dashboard.codebook_map import CodebookMap, items_of
from deploy.dashboard.flow import Flow
from deploy.dashboard.interests import interests
from deploy.dashboard.timeline import Timeline
from deploy.dashboard.versions import LoadedVersions
from deploy.http.shop_ids import Id, with_ids_as_text
from deploy.release.judge import RecentEvents
from deploy.release.promotion import SwitchError, resolve
from deploy.service.split_comparison import compare_arms, logged_since
from deploy.service.work_queue import WorkQueue
from indexer.comparison.versions import compare, usual_samples
from indexer.errors import SnapshotError
from model.histories import History

if TYPE_CHECKING:
    from deploy.service.retrieval import RetrievalService

STATIC = Path(__file__).with_name("static")
TAG = "dashboard"

UserId = Annotated[Id, InPath(description="As the shop calls it, text or number.")]
Version = Annotated[str, Query(max_length=32, description="7, v7, champion, previous, newest ...")]


class Dashboard:
    """The page of one service, what it shows of the last minutes, and a thread that draws it."""

    def __init__(self, service: RetrievalService) -> None:
        self.flow = Flow(service, service.clock)
        self._service = service
        # A page that somebody looks at must not keep queries waiting.
        self._queue = WorkQueue("dashboard", 1, 8, 60.0)

    def add_to(self, app: FastAPI) -> None:
        """Add the page and what it asks for."""
        _add_routes(app, self._service, self.flow, self._queue)

    def run(self, stop: threading.Event) -> None:
        """Sample what is shown until `stop` is set."""
        self.flow.run(stop)
        self.close()

    def close(self) -> None:
        """Wait for the work under way."""
        self._queue.close()


def add_dashboard(app: FastAPI, service: RetrievalService) -> Callable[[threading.Event], None]:
    """Add the page to a service; what is returned is to run in a thread, until it is stopped."""
    dashboard = Dashboard(service)
    dashboard.add_to(app)
    return dashboard.run


def _add_routes(app: FastAPI, service: RetrievalService, flow: Flow, queue: WorkQueue) -> None:
    timeline = Timeline(service.data_dir)
    codebook = CodebookMap()
    loaded = LoadedVersions(service.data_dir, service.follower)

    async def slowly(work: Callable[[], Any]) -> Response:
        """Work in the dashboard's own thread, so that queries do not wait for it."""
        try:
            found = await service.queued(lambda: _json(work()), queue)
        except (SwitchError, SnapshotError) as error:
            raise HTTPException(404, str(error)) from error
        return Response(found, media_type="application/json")

    def route(path: str, summary: str) -> Callable[[Any], Any]:
        return app.get(
            path,
            summary=summary,
            tags=[TAG],
            response_model=None,
            responses={
                200: {"content": {"application/json": {"schema": {"type": "object"}}}},
                **{
                    code: {"description": text}
                    for code, text in (
                        (400, "The request names no host, or several."),
                        (401, "The token is missing or wrong."),
                        (404, "There is no such version."),
                        (421, "The service does not go by the host's name."),
                        (429, "Too many requests wait already."),
                        (503, "No snapshot is loaded yet."),
                        (504, "It took too long."),
                    )
                },
            },
        )

    @route("/v1/flow", "Rates, lag and freshness of every part")
    async def flow_view() -> Response:
        """What the parts report, and the last minutes."""
        return await slowly(flow.view)

    @route("/v1/quality", "Prequential recall of the model and of popularity")
    async def quality() -> Response:
        """Curves over event time: each event was answered before it was learnt."""
        return await slowly(flow.quality_view)

    @route("/v1/timeline", "Versions and what was decided about each")
    async def versions() -> Response:
        """Oldest first."""
        return await slowly(timeline.view)

    @route("/v1/codebook", "The first-level codes in the plane")
    async def codes() -> Response:
        """Place, items, clicks and drift of each code of the served version."""
        retriever = service.retriever()
        return await slowly(lambda: codebook.view(retriever))

    @route("/v1/codes/{code}/items", "Items of a code, most clicked first")
    async def code_items(
        code: Annotated[int, InPath(ge=0, le=1_000_000)],
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> Response:
        """By title, of the served version; an empty list for a code without items."""
        retriever = service.retriever()
        return await slowly(
            lambda: {
                "code": code,
                "label": retriever.label(code),
                "version": retriever.version,
                "items": items_of(retriever, code, limit),
            }
        )

    @route("/v1/users", "Users who clicked lately")
    async def users(limit: Annotated[int, Query(ge=1, le=100)] = 12) -> Response:
        """With how many clicks each has, the latest first."""
        return await slowly(lambda: {"users": recent_users(service.recent, limit)})

    @route("/v1/users/{user_id:path}/interests", "A user's interests over time")
    async def user_interests(
        request: Request, user_id: UserId, k: Annotated[int, Query(ge=1, le=100)] = 12
    ) -> Response:
        """p(code | clicks so far) after every click, the codes explored, and the answer."""
        retriever = service.retriever()
        now_ms = max(service.histories.latest_event_time_ms, retriever.event_time_ms)
        return await slowly(
            lambda: {
                "user_id": request.path_params["user_id"].strip(),  # as the shop calls it
                **interests(retriever, service.histories.get(user_id), now_ms, k),
            }
        )

    @route("/v1/compare", "Two versions side by side")
    async def comparison(
        a: Version = "previous",
        b: Version = "champion",
        k: Annotated[int, Query(ge=1, le=50)] = 10,
        user_id: Id | None = None,
    ) -> Response:
        """Metrics, the same recent events, codes that moved, items, sample answers."""

        def work() -> dict[str, Any]:
            first, second = (loaded.get(resolve(service.data_dir, name)) for name in (a, b))
            samples = usual_samples(second)
            if user_id is not None and (known := service.histories.get(user_id)) is not None:
                samples = [History(known.items, known.times), *samples[:1]]
            return compare(first, second, service.recent.all(), samples, k)

        return await slowly(work)

    @route("/v1/split", "The split that runs, and what was clicked of what each arm answered")
    async def split(
        window_hours: Annotated[float, Query(gt=0, le=24 * 365)] = 24.0,
    ) -> Response:
        """From the answer log and the users' clicks; null where no split runs."""
        return await slowly(lambda: split_view(service, window_hours))

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse("/dashboard/")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(STATIC / "docs.html")

    app.mount("/dashboard", StaticFiles(directory=STATIC, html=True), name="dashboard")


def split_view(service: RetrievalService, window_hours: float) -> dict[str, Any]:
    """The split, what keeps an arm from answering, and the arms compared; None where none runs."""
    split = service.serving().split
    if split is None:
        return {"split": None, "problem": service.arms.problem, "arms": []}
    arms = compare_arms(
        split,
        logged_since(service.data_dir / "service" / "answers", split),
        service.histories.get,
        service.now_ms(),
        int(window_hours * 3_600_000),
    )
    return {"split": asdict(split), "problem": service.arms.problem, "arms": arms}


def recent_users(recent: RecentEvents, limit: int) -> list[dict[str, int | str]]:
    """Users of the newest events, as the shop calls them, each once, the latest first."""
    found: dict[int, dict[str, int | str]] = {}
    for sequence in reversed(recent.all()):
        if sequence.user_id not in found:
            found[sequence.user_id] = {
                "user_id": sequence.external_user_id or sequence.user_id,
                "clicks": sequence.position,
                "last_ms": sequence.event_time,
            }
            if len(found) == limit:
                break
    return list(found.values())


def _json(value: Any) -> bytes:
    return orjson.dumps(
        with_ids_as_text(value), option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    )
