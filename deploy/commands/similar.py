"""`sparc similar`: items like an item, from the running service."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from deploy import settings as configuration
from deploy.commands.client import console
from deploy.commands.console import errors_as_one_line, show_json
from deploy.commands.options import AsJson, ConfigFile, DataDir
from deploy.commands.retrieve import (
    ExcludeOption,
    FilterOption,
    IncludeOption,
    among_items,
    asked,
    items_of,
)

WORDS = {"neighbour": "clicked together", "code": "same code", "nearby": "code next to it"}


def similar(
    item: Annotated[str, typer.Argument(help="The item, as it is called in the log.")],
    user: Annotated[
        str | None, typer.Option(help="For this user, who looks at the item now.", metavar="ID")
    ] = None,
    history: Annotated[
        str | None, typer.Option(help="Or for who clicked these, oldest first: 12,7,B000AAAAAA.")
    ] = None,
    k: Annotated[int, typer.Option(help="Number of items.", min=1, max=500)] = 10,
    filter_: FilterOption = None,
    exclude: ExcludeOption = None,
    include_only: IncludeOption = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Ask the running service for items like an item, and show what brought each.

    Examples: `sparc similar 42`, `sparc similar B000AAAAAA --user ada --k 20`
    """
    with errors_as_one_line():
        question: dict[str, Any] = {"item_id": item, "k": k}
        question |= among_items(filter_, exclude, include_only)
        if user is not None:
            question["user_id"] = user
        if history is not None:
            question["history"] = items_of(history)
        answer = asked(configuration.load(config, data_dir), "/v1/similar", question)
        if as_json:
            show_json(answer)
        else:
            show_similar(answer)


def show_similar(answer: dict[str, Any]) -> None:
    """Print the items with what brought each."""
    console.print(f"snapshot {answer['version']}, the item has code {answer['code']}")
    items = Table("", "item", "title", "category", "because", "code", "score", box=SIMPLE)
    for rank, item in enumerate(answer["items"], 1):
        items.add_row(
            str(rank),
            escape(item["external_id"]),
            escape(item["title"]),
            escape(item["category"]),
            ", ".join(WORDS[source] for source in item["sources"]),
            str(item["code"]),
            f"{item['score']:.2f}",
        )
    console.print(items)
