"""A command as a client of the service that runs."""

from __future__ import annotations

from typing import Any

import httpx
from rich.console import Console

from deploy.settings import Settings

console = Console(soft_wrap=True)


class QuestionError(RuntimeError):
    """The service refuses the question."""


class NoServiceError(QuestionError):
    """No service answers."""


def address_of(settings: Settings) -> str:
    """Of the service."""
    return f"http://{settings.service.host}:{settings.ports.service}"


def bearer(settings: Settings) -> dict[str, str]:
    """The header that a service with a token asks for; empty without one."""
    token = settings.service.bearer()
    return {"Authorization": f"Bearer {token}"} if token else {}


def ask(settings: Settings, path: str, *, timeout: float, **question: Any) -> dict[str, Any]:
    """The service's answer to `question`: `json` of a POST, or `params` of a GET.

    Raises:
        NoServiceError: if none answers.
        QuestionError: if it refuses.
    """
    address = f"{address_of(settings)}{path}"
    method = "POST" if "json" in question else "GET"
    try:
        answer = httpx.request(
            method, address, timeout=timeout, headers=bearer(settings), **question
        )
    except httpx.HTTPError as error:
        raise NoServiceError(f"no service answers at {address} ({error})") from error
    if answer.status_code != 200:
        raise QuestionError(f"{address} answers {answer.status_code}: {answer.text}")
    found: dict[str, Any] = answer.json()
    return found
