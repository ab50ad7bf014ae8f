"""`sparc stream` and `sparc dlq`: the streaming job, and the records that it could not read."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy import settings as configuration

if TYPE_CHECKING:
    from deploy.settings import Settings
    from streaming.dead_letters import DeadLetter

stream_app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode="markdown",
    help="Keep the job `clicks` -> `sequences` running on the Flink cluster, or replace it.\n\n"
    "Example: `sparc stream --config sparc.toml`",
)
dead_letters_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Records of `clicks` that are no clicks: look at them, mend them, send them again.",
)

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file.", metavar="FILE")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="State of the pipeline; default: that of the last one.", metavar="DIR"),
]
Reason = Annotated[
    str, typer.Option(help="Only those whose reason begins so, such as `user_id`.", metavar="TEXT")
]
FlinkAddress = Annotated[
    str,
    typer.Option("--flink", help="REST API of a session cluster.", metavar="HOST:PORT"),
]
SHOWN_BYTES = 60


def _settings(config: Path | None, data_dir: Path | None, flink: str) -> Settings:
    address = {"address": flink} if flink else None
    return configuration.load(config, data_dir, flink=address)


@stream_app.callback()
def stream(
    context: typer.Context,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    flink: FlinkAddress = "",
    restore: Annotated[
        str,
        typer.Option(
            help="Checkpoint or savepoint to go on from; `none` to begin anew. Default: the newest "
            "in the directory of the checkpoints.",
            metavar="URI",
        ),
    ] = "",
) -> None:
    """Keep the job `clicks` -> `sequences` running on the Flink cluster.

    SIGHUP replaces it: savepoint, new code and configuration, and on from the savepoint.

    Examples: `sparc stream --flink flink:8081`, `sparc stream upgrade`
    """
    context.obj = (config, data_dir, flink)
    if context.invoked_subcommand:
        return
    from deploy.commands.app import errors_as_one_line, run_part

    upgrade = threading.Event()
    signal.signal(signal.SIGHUP, lambda *_: upgrade.set())
    with errors_as_one_line():
        settings = _settings(config, data_dir, flink)
    again = False

    def body(stop: threading.Event, report: Callable[[dict[str, Any]], None]) -> None:
        from deploy.commands.stream_part import keep

        nonlocal again
        again = keep(settings, stop, report, upgrade, restore)

    # A state that was named is gone on from once: whoever named it looks what came of it.
    run_part("stream", settings, body, begins_anew=not restore)
    if again:
        options = [o for o in ("--restore", restore) if restore]
        os.execv(sys.executable, _without(sys.orig_argv, options))  # noqa: S606 (ourselves)


def _without(arguments: list[str], options: list[str]) -> list[str]:
    """The arguments without those that were for the first start only."""
    joined = "=".join(options)
    return [a for a in arguments if a != joined and a not in options]


@stream_app.command("upgrade")
def upgrade_stream(
    context: typer.Context,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    flink: FlinkAddress = "",
    timeout: Annotated[
        float, typer.Option(help="Seconds until the new version must have a checkpoint.", min=1)
    ] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Replace the running job by its new version: savepoint, stop, and on from the savepoint.

    For new code, and for a new parallelism, state backend or other setting; change the
    configuration first. With a keeper (`sparc stream`, or `sparc up`) running on the data
    directory, the keeper does it, with the configuration that it was started with, read anew.

    Example: `SPARC_STREAMING__PARALLELISM=2 sparc stream upgrade --flink flink:8081`
    """
    from deploy.commands.app import configure_logging, errors_as_one_line, show_json
    from deploy.commands.stream_part import replace_job

    above = context.obj or (None, None, "")
    with errors_as_one_line():
        settings = _settings(config or above[0], data_dir or above[1], flink or above[2])
        configure_logging("warning")
        done = replace_job(settings, timeout, lambda text: print(text, file=sys.stderr, flush=True))
    if as_json:
        show_json(done)
    else:
        print(
            f"job {done['new_job']} runs from {done['restored_from']} after {done['seconds']} s, "
            f"in place of {done['old_job']}"
        )


@dead_letters_app.command("list")
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
    from deploy.commands.app import errors_as_one_line
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


@dead_letters_app.command("replay")
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
    from deploy.commands.app import errors_as_one_line, fail
    from deploy.commands.stream_part import check_cluster
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
