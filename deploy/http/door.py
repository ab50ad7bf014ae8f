"""Who may speak to a server on this machine from a browser: its own pages, and nobody else's.

A page of anybody's can send requests to 127.0.0.1 from the browser of who looks at it. Two checks
keep it out, before anything else of a request is looked at, a token included:

    Host      a page whose name is made to lead here (DNS rebinding) is read by the browser as if it
              were ours, but asks for itself by its own name: names that are not ours are refused
              (421). An address is no name that can be made to lead anywhere, so any is welcome.
    Origin    what changes something is taken from pages of the same host and port, or of the names
              that are configured; from others it is refused (403).

Programs that are no browsers send the host that they were told, and no origin.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

READING = ("GET", "HEAD", "OPTIONS")
ANY = "*"


class Door:
    """Passes requests on that are meant for us, and refuses the others.

    Args:
        app: behind the door.
        hosts: names that we go by beside `localhost` and addresses, without ports; `*` for any,
            where something before us checks them.
        setting: where names are added, for the messages.
    """

    def __init__(
        self, app: ASGIApp, hosts: Iterable[str] = (), setting: str = "[service] hosts"
    ) -> None:
        self._app = app
        self._setting = setting
        self._hosts = {host.lower().strip(".") for host in hosts}
        # Another port of an address, or of this machine, may be anybody's.
        self._pages = {h for h in self._hosts if h != "localhost" and not is_address(h)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        app = self._app
        if scope["type"] == "http" and (refusal := self._refusal(scope)) is not None:
            app = refusal
        await app(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) > 1 or (not hosts and scope["http_version"] != "1.0"):
            return JSONResponse({"detail": "a request names one host"}, 400)
        host = hosts[0].decode("latin-1").lower() if hosts else ""
        if hosts and not self._ours(name_of(host)):
            return JSONResponse(
                {
                    "detail": f"this server does not go by the name {name_of(host)[:100]!r}; if it "
                    f"should, add the name to {self._setting}"
                },
                421,
            )
        if scope["method"] in READING:
            return None
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        for origin in origins:
            origin_host = origin.decode("latin-1").lower().partition("://")[2]
            if origin_host != host and name_of(origin_host) not in self._pages:
                return JSONResponse(
                    {
                        "detail": "a page of another origin asks; if it is yours, add its name "
                        f"to {self._setting}"
                    },
                    403,
                )
        return None

    def _ours(self, name: str) -> bool:
        return ANY in self._hosts or name == "localhost" or name in self._hosts or is_address(name)


def name_of(host: str) -> str:
    """The name in `name`, `name:port` or `[address]:port`.

    >>> name_of("localhost:8000"), name_of("[::1]:8000"), name_of("shop.example.")
    ('localhost', '::1', 'shop.example')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def is_address(name: str) -> bool:
    """Whether it is an IP address, as it is written in full.

    >>> is_address("127.0.0.1"), is_address("::1"), is_address("10.evil.example")
    (True, True, False)
    """
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
