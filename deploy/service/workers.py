"""Several processes that answer queries on one port.

The first worker is the service: it judges versions, measures, and shows the dashboard. The others
hold the same histories and follow its decisions, and only answer and take clicks: whatever else
reaches them they pass on to it, so that what is said of items is said one after the other. Each
worker also listens on a port of its own on the loopback, which it notes, with how much it has
answered, in `service/workers/<number>.json`; there the first one reads the metrics of the others,
and adds them to its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from deploy.monitoring import moment
from deploy.monitoring.moment import Moment
from deploy.monitoring.part_status import write_last_word

OWN = (
    "/v1/retrieve",
    "/v1/retrieve/batch",
    "/v1/similar",
    "/v1/explain",
    "/v1/popular",
    "/v1/events",
    "/ready",
)
"""What every worker answers itself."""
STALE_SECONDS = 10.0
_LEFT_OUT = {b"host", b"content-length", b"connection", b"transfer-encoding"}


def note(data_dir: Path, number: int, port: int, answered: int) -> None:
    """Tell the other workers that this one lives, and where."""
    body = {"port": port, "answered": answered, "at": moment.now().to_json()}
    write_last_word(data_dir / "service" / "workers" / f"{number}.json", orjson.dumps(body))


def noted(data_dir: Path) -> dict[int, dict[str, Any]]:
    """What the workers that live have noted, by number."""
    found: dict[int, dict[str, Any]] = {}
    for path in (data_dir / "service" / "workers").glob("*.json"):
        try:
            body: dict[str, Any] = orjson.loads(path.read_bytes())
            if abs(moment.now().since(Moment.from_json(body["at"]))) < STALE_SECONDS:
                found[int(path.stem)] = {"port": int(body["port"]), "answered": body["answered"]}
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it was just replaced, or is somebody else's
    return found


def others(data_dir: Path) -> list[dict[str, Any]]:
    """What the workers beside the first have noted."""
    return [one for number, one in noted(data_dir).items() if number > 1]


class Forwarding:
    """Answers what is `OWN`, and all that comes to the worker's own port; the rest is the first's.

    Args:
        data_dir: where workers note their ports.
        own_port: of this worker alone.
    """

    def __init__(self, data_dir: Path, own_port: int) -> None:
        self._data_dir = data_dir
        self._own_port = own_port
        self._client = httpx.AsyncClient(timeout=60.0, trust_env=False)

    def is_due(self, scope: Scope) -> bool:
        """Whether a request is the first worker's."""
        mine = (scope.get("server") or ("", 0))[1] == self._own_port
        return not (mine or scope["path"] in OWN)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the first worker."""
        await (await self._passed_on(Request(scope, receive)))(scope, receive, send)

    async def _passed_on(self, request: Request) -> Response:
        query = request.scope["query_string"]
        first = noted(self._data_dir).get(1)
        if first is None:
            return JSONResponse({"detail": "the service's first worker is away"}, 503)
        # as it came: an id in a path is not to be read and written twice
        path = request.scope["raw_path"] + (b"?%s" % query if query else b"")
        url = httpx.URL(scheme="http", host="127.0.0.1", port=first["port"], raw_path=path)
        headers = [(name, value) for name, value in request.headers.raw if name not in _LEFT_OUT]
        try:
            answer = await self._client.request(
                request.method, url, headers=headers, content=await request.body()
            )
        except httpx.HTTPError as error:
            return JSONResponse({"detail": f"the first worker does not answer: {error}"}, 503)
        passed = Response(answer.content, answer.status_code)
        passed.raw_headers = [
            (name.lower(), value)
            for name, value in answer.headers.raw
            if name.lower() not in _LEFT_OUT | {b"content-encoding"}
        ] + [(b"content-length", b"%d" % len(answer.content))]
        return passed
