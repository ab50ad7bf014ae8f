"""The `sparc` command: the whole pipeline, or one part of it, and questions to a running one."""

from __future__ import annotations

import sys

import typer

from deploy.commands import (
    config,
    dead_letters,
    doctor,
    evaluate,
    forget,
    parts,
    retrieve,
    similar,
    snapshots,
    split,
    status,
    stream,
    up,
    versions,
)
from deploy.commands.console import Cleaned

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a bug shows a plain traceback, fit for a log
    rich_markup_mode="markdown",
    help="Learns a recommender's retrieval stage while it serves.",
)
for command in (
    up.up,
    doctor.doctor,
    status.status,
    retrieve.retrieve,
    similar.similar,
    forget.forget,
    forget.purge,
    snapshots.snapshots,
    versions.promote,
    versions.rollback,
    versions.compare,
    parts.replay,
    parts.train,
    parts.index,
    parts.register,
    parts.serve,
):
    app.command()(command)
app.add_typer(stream.app, name="stream")
app.add_typer(dead_letters.app, name="dlq")
app.add_typer(split.app, name="split")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(config.app, name="config")


@app.callback()
def begin() -> None:
    """Learns a recommender's retrieval stage while it serves."""
    if not isinstance(sys.stderr, Cleaned):
        sys.stderr = Cleaned(sys.stderr)  # type: ignore[assignment]
