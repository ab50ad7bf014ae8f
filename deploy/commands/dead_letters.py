"""`sparc dlq`: the records that the streaming job could not read."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy import settings as configuration
from deploy.commands.console import errors_as_one_line, fail
from deploy.commands.options import ConfigFile, DataDir

if TYPE_CHECKING:
    from streaming.dead_letters import DeadLetter

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Records of `clicks` that are no clicks: look at them, mend them, send them again.",
)

Reason = Annotated[
    str, typer.Option(help="Only those whose reason begins so, such as `user_id`.", metavar="TEXT")
]
SHOWN_BYTES = 60


@app.command("list")
def list_dead_letters(
    reason: Reason = "",
    limit: Annotated[int, typer.Option(help="Show no more than so many.", min=1)] = 50,
    as_json: Annotated[
        bool, typer.Option("--json", help="All of them, one JSON object per line.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Show the dead letters: where each one stood, why it is there, and what it holds.

    Examples: `sparc dlq list --reason user_id`, `sparc dlq list --json > dead_letters.jsonl`
    """
    from streaming import dead_letters as room

    with errors_as_one_line():
        settings = configuration.load(config, data_dir)
        found = room.read(settings.kafka_connection, settings.kafka.topics())
        letters = room.selected(found, reason, ())
    if as_json:
        for letter in letters:
            sys.stdout.buffer.write(letter.to_json() + b"\n")
        sys.stdout.flush()
    else:
        _show(letters, limit)


def _show(letters: list[DeadLetter], limit: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    for title in ("place", "read from", "recorded", "reason", "key", "value"):
        table.add_column(title, no_wrap=title != "value")
    for letter in islice(letters, limit):
        recorded = datetime.fromtimestamp(max(0, letter.timestamp) / 1000, UTC)
        table.add_row(
            letter.place,
            f"{letter.topic} {letter.partition}:{letter.offset}",
            recorded.strftime("%Y-%m-%d %H:%M:%S"),
            Text(letter.reason),
            Text(_shown(letter.key)),
            Text(_shown(letter.value)),
        )
    console = Console()
    if letters:
        console.print(table)
    for reason, count in Counter(letter.reason for letter in letters).most_common():
        console.print(Text(f"{count:>8,}  {reason}"))
    console.print(f"{len(letters):>8,}  dead letters, {min(limit, len(letters)):,} shown")


def _shown(value: bytes | None) -> str:
    if value is None:
        return "none"
    text = value[:SHOWN_BYTES].decode("utf-8", "backslashreplace")
    return text + (f"... ({len(value):,} bytes)" if len(value) > SHOWN_BYTES else "")


@app.command("replay")
def replay_dead_letters(
    places: Annotated[
        list[str] | None, typer.Argument(help="As `sparc dlq list` shows them, such as 0:17.")
    ] = None,
    reason: Reason = "",
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    edited: Annotated[
        Path | None,
        typer.Option(
            help="Send the lines of this file instead, as `sparc dlq list --json` writes them and "
            "you have mended them.",
            metavar="FILE",
        ),
    ] = None,
    set_key: Annotated[
        bool, typer.Option("--set-key", help="Set each key to the `user_id` of the value.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Send dead letters to `clicks` again, as they were or mended.

    One that still is no click comes back as another dead letter; one whose event has been taken
    meanwhile is dropped as a duplicate; one whose time has gone by goes to `clicks.late`.

    Examples: `sparc dlq replay 0:17 0:18`, `sparc dlq replay --reason key --set-key`,
    `sparc dlq replay --edited dead_letters.jsonl`
    """
    from deploy.commands.job_supervision import check_cluster
    from streaming import dead_letters as room

    if not (places or reason or every or edited):
        raise fail("which dead letters? Name places, a --reason, an --edited file, or --all")
    with errors_as_one_line():
        settings = configuration.load(config, data_dir)
        kafka = (settings.kafka_connection, settings.kafka.topics())
        letters = room.selected(
            room.read(*kafka) if edited is None else _lines(edited), reason, places or ()
        )
        if set_key:
            letters = [room.with_key(letter) for letter in letters]
        check_cluster(settings)
        count = room.send(letters, *kafka) if letters else 0
    print(f"{count:,} dead letters were sent to {settings.kafka.topics().clicks} again")


def _lines(path: Path) -> list[DeadLetter]:
    from streaming.dead_letters import DeadLetter

    letters = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    letters.append(DeadLetter.from_json(line))
                except ValueError as error:
                    raise ValueError(f"{path} line {number}: {error}") from error
    return letters
