"""Around every request of the service: the clock, the limit of a body, the token, the headers.

Before it stands the door (`deploy/http/door.py`), behind it the routes, or, in a worker that is
not the first, the way to the first one.
"""

from __future__ import annotations

import hmac
import time

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy.service.metrics import ServiceMetrics
from deploy.service.workers import Forwarding

OPEN = ("/", "/health", "/ready", "/docs", "/openapi.json")
"""Paths that need no token; the dashboard's files neither: they hold no data."""
OPEN_FILES = "/dashboard"

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data:; "
        b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
)


class Edge:
    """Measures every request, and refuses one without the token (401) or too long a body (413).

    A body that does not announce its length is cut off at the limit. An empty token asks nobody.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: ServiceMetrics,
        limit: int,
        token: str = "",
        forwarding: Forwarding | None = None,
    ) -> None:
        self._app = app
        self._forwarding = forwarding
        self._metrics = metrics
        self._limit = limit
        self._token = token.encode()

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
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        headers = dict(scope["headers"])
        announced = headers.get(b"content-length", b"0")
        passed_on = self._forwarding is not None and self._forwarding.is_due(scope)
        app = self._forwarding if self._forwarding is not None and passed_on else self._app
        if not self._allowed(scope["path"], headers.get(b"authorization", b"")):
            app = JSONResponse(
                {"detail": "this service asks for a token: Authorization: Bearer <token>"},
                401,
                {"WWW-Authenticate": "Bearer"},
            )
        elif announced.isdigit() and int(announced) > self._limit:
            app = JSONResponse({"detail": self._too_long}, 413)
        try:
            await app(scope, counted, noted)
        except HTTPException as error:  # from `counted`, past the routes
            await JSONResponse({"detail": error.detail}, error.status_code)(scope, receive, noted)
        finally:
            if not passed_on:  # else the first worker measures it
                path = getattr(scope.get("route"), "path", "other")
                self._metrics.observe(path, status, time.perf_counter() - began)

    def _allowed(self, path: str, given: bytes) -> bool:
        if not self._token or path in OPEN or path.startswith(OPEN_FILES):
            return True
        return hmac.compare_digest(given, b"Bearer " + self._token)

    @property
    def _too_long(self) -> str:
        return f"the body is longer than {self._limit} bytes"
