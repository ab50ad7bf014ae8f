"""`sparc retrieve`: an answer of the running service."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from deploy import settings as configuration
from deploy.commands.client import NoServiceError, ask, console
from deploy.commands.console import errors_as_one_line, show_json
from deploy.commands.options import AsJson, ConfigFile, DataDir
from deploy.settings import Settings

FilterOption = Annotated[
    str | None,
    typer.Option(
        "--filter",
        help="What the items must meet, as JSON in Qdrant's form, or @FILE that holds it.",
        metavar="JSON|@FILE",
    ),
]
ExcludeOption = Annotated[
    str | None, typer.Option(help="Further items to leave out, as in --history.", metavar="IDS")
]
IncludeOption = Annotated[
    str | None, typer.Option(help="The only items that may answer.", metavar="IDS")
]


def retrieve(
    user: Annotated[
        str | None, typer.Option(help="A user, as the shop calls it, text or number.", metavar="ID")
    ] = None,
    history: Annotated[
        str | None,
        typer.Option(
            help="Item ids instead, oldest first: 12,7,B000AAAAAA; as a JSON list, where one has a "
            "comma."
        ),
    ] = None,
    k: Annotated[int, typer.Option(help="Number of items.", min=1, max=500)] = 50,
    codes: Annotated[int | None, typer.Option(help="Number of codes to search.", min=1)] = None,
    filter_: FilterOption = None,
    exclude: ExcludeOption = None,
    include_only: IncludeOption = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Ask the running service for items, and show which interests brought them.

    Examples: `sparc retrieve --user 42 --k 10`, `sparc retrieve --history 12,7 --codes 4 --json`,
    `sparc retrieve --user 42 --filter '{"must": {"key": "price", "range": {"lt": 20}}}'`
    """
    with errors_as_one_line():
        among = among_items(filter_, exclude, include_only)
        answer = answer_of(configuration.load(config, data_dir), user, history, k, codes, among)
        if as_json:
            show_json(answer)
        else:
            show_answer(answer)


def among_items(
    filter_: str | None, exclude: str | None, include_only: str | None
) -> dict[str, Any]:
    """The fields of a question that say among which items.

    Args:
        filter_: JSON, or `@` and the file that holds it.
        exclude: ids, as `items_of` takes them.
        include_only: ids, too.

    Raises:
        ValueError: if the filter is no JSON.
        OSError: if its file cannot be read.
    """
    found: dict[str, Any] = {}
    if filter_ is not None:
        text = Path(filter_[1:]).read_text("utf-8") if filter_.startswith("@") else filter_
        try:
            found["filter"] = json.loads(text)
        except ValueError as error:
            raise ValueError(f"--filter is no JSON: {error}") from error
    if exclude is not None:
        found["exclude"] = items_of(exclude)
    if include_only is not None:
        found["include_only"] = items_of(include_only)
    return found


def answer_of(
    settings: Settings,
    user: str | None,
    history: str | None,
    k: int,
    codes: int | None,
    among: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Ask the service.

    Raises:
        QuestionError: if it does not answer, or refuses.
        ValueError: if neither or both of user and history are given.
    """
    if (user is None) == (history is None):
        raise ValueError("give either --user or --history")
    question: dict[str, Any] = {"k": k, **(among or {})}
    if user is not None:
        question["user_id"] = user
    else:
        question["history"] = items_of(history or "")
    if codes is not None:
        question["codes"] = codes
    return asked(settings, "/v1/retrieve", question)


def items_of(history: str) -> list[Any]:
    """Ids that are given as `12,7,B000AAAAAA`, or as a list in JSON.

    Raises:
        ValueError: if it begins as a list, and is none.
    """
    if history.lstrip().startswith("["):
        try:
            return list(json.loads(history))
        except ValueError as error:
            raise ValueError(f"the history is no list in JSON: {error}") from error
    return [word for word in map(str.strip, history.split(",")) if word]


def asked(settings: Settings, path: str, question: dict[str, Any]) -> dict[str, Any]:
    """The answer of the service that runs.

    Raises:
        QuestionError: if it does not answer, or refuses.
    """
    try:
        return ask(settings, path, timeout=10.0, json=question)
    except NoServiceError as error:
        raise NoServiceError(
            f"{error}; start it with ./deploy/start_pipeline.sh or `sparc serve`"
        ) from error


def show_answer(answer: dict[str, Any]) -> None:
    """Print the codes that were searched, then the items with the code that brought each."""
    known = {True: "known user", False: "unknown user: the interest prior answers", None: "history"}
    console.print(f"snapshot {answer['version']}, {known[answer['known_user']]}")
    codes = Table("code", "probability", "items of the answer", box=SIMPLE)
    for code in answer["searched"]:
        codes.add_row(str(code["code"]), f"{code['probability']:.3f}", str(code["quota"]))
    console.print(codes)
    items = Table("", "item", "title", "category", "code", "p(code)", "score", box=SIMPLE)
    for rank, item in enumerate(answer["items"], 1):
        items.add_row(
            str(rank),
            escape(item["external_id"]),
            escape(item["title"]),
            escape(item["category"]),
            str(item["code"]),
            f"{item['code_probability']:.3f}",
            f"{item['score']:.2f}",
        )
    console.print(items)
