"""The protocol that our HTTP servers speak: uvicorn's, with bounds for what a client may cost.

uvicorn's protocol over httptools takes any number of connections, headers of any length and
clients of any slowness; whoever reaches the port could use up the descriptors, the memory and,
since httptools puts a long header together piece by piece, the processor, before a token is asked.
Each bound is told to the client where it still can be:

    too many connections    the one that has been idle longest makes room; where all of them are
                            being answered, 503
    too long a head         431: request line and headers, and likewise a chunked body's trailers
    too slow a request      408: the head within `head_seconds`, the body at `LEAST_RATE` or more
    too slow a reader       the connection is cut off after `write_seconds` without progress
"""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from deploy.http.connections import Limits

LEAST_RATE = 1024
"""Bytes a second that a body must come with on the average of `body_seconds`."""
LINGER_SECONDS = 2.0
"""How long an answer may take to leave once the connection is to be closed."""


def bounded_protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """The protocol that uvicorn speaks with `http=...`, within limits."""
    return type("Bounded", (BoundedProtocol,), {"limits": limits})


class BoundedProtocol(HttpToolsProtocol):
    """One connection within `limits`, those of its subclass."""

    limits = Limits()

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._patience: TimerHandle | None = None
        self._reading: TimerHandle | None = None
        self._in_head = True
        self._in_body = False
        self._head = 0  # bytes of this request's line, headers and trailers
        self._raw = 0  # bytes since the last sign of progress in the request
        self._body = 0
        self._rate_from = 0
        self._refusal: HTTPStatus | None = None
        self._since = self.loop.time()

    # Connections

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete or self._in_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, in the place of the one that was idle longest if there are many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            others = (c for c in self.connections if isinstance(c, BoundedProtocol))
            idle = [c for c in others if c is not self and c._idle]
            if not idle:
                self.connections.discard(self)
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
                return
            oldest = min(idle, key=lambda c: c._since)
            self.connections.discard(oldest)
            oldest.transport.abort()
        self._wait(self.limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        for timer in (self._patience, self._reading):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    # Requests

    def data_received(self, data: bytes) -> None:
        """Take bytes, unless they are too many for what they are."""
        if self.transport.is_closing():
            return
        self._raw += len(data)
        super().data_received(data)
        # httptools keeps an unfinished header or trailer to itself, so the bytes are counted too.
        spare = 0 if self._in_head else 6 * self._body
        if self._raw - self._body > self.limits.head_bytes + spare and (
            self._in_head or self._in_body
        ):
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._head = 0
        self._in_head = True
        if self._patience is None:
            self._wait(self.limits.head_seconds)

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer after a chunked body."""
        self._count(len(name) + len(value) + 4)
        if self._in_head:  # nobody asks for trailers
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The body may come."""
        self._in_head, self._in_body = False, True
        self._raw = self._body = self._rate_from = 0
        self._wait(self.limits.body_seconds)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is here, whole."""
        self._in_body = False
        self._raw = self._body = 0
        self._in_head = True
        self._stop_waiting()
        self._since = self.loop.time()
        super().on_message_complete()
        if self.cycle is None or self.cycle.response_complete:
            self._wait(self.limits.head_seconds)

    def on_response_complete(self) -> None:
        """The answer is written; what is left of a refused body is not waited for."""
        super().on_response_complete()
        self._since = self.loop.time()
        if self.transport.is_closing() or self._in_body:
            self._end_within(LINGER_SECONDS)
        elif not self.pipeline:
            self._wait(self.limits.head_seconds)

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > self.limits.head_bytes:
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise ValueError("too long a head")  # ends the parser, which has us send the refusal

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, or what we refused to parse any further."""
        if self._refusal is not None:
            self._refuse(self._refusal)
        else:
            super().send_400_response(msg)
            self._end_within(LINGER_SECONDS)

    def _refuse(self, status: HTTPStatus) -> None:
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            words = status.phrase.encode()
            self.transport.write(
                STATUS_LINE[status]
                + b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n" % len(words) + words
            )
        self.transport.close()
        self._end_within(LINGER_SECONDS)

    # Patience

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(seconds, self._out_of_patience)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _out_of_patience(self) -> None:
        self._patience = None
        if self.transport.is_closing():
            return
        came = self._body - self._rate_from
        if self._in_body and (
            self.flow.read_paused or came >= LEAST_RATE * self.limits.body_seconds
        ):
            self._rate_from = self._body
            self._wait(self.limits.body_seconds)
        elif self._raw or self._head or self._in_body:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self._end_within(0.0)  # it never asked anything

    def pause_writing(self) -> None:
        """The client does not read as quickly as we write."""
        super().pause_writing()
        if self._reading is None:
            self._reading = self.loop.call_later(self.limits.write_seconds, self._abort)

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def timeout_keep_alive_handler(self) -> None:
        """Nothing was asked for a while; an answer that is not even read yet is given up."""
        super().timeout_keep_alive_handler()
        self._end_within(LINGER_SECONDS)

    def _end_within(self, seconds: float) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(seconds, self._abort)

    def _abort(self) -> None:
        self.transport.abort()
