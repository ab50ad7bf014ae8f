"""`sparc stream`: the streaming job kept running, and replaced by its new version."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy import settings as configuration
from deploy.commands.console import configure_logging, errors_as_one_line, run_part, show_json
from deploy.commands.options import ConfigFile, DataDir
from streaming.statuses import Report

if TYPE_CHECKING:
    from deploy.settings import Settings

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode="markdown",
    help="Keep the job `clicks` -> `sequences` running on the Flink cluster, or replace it.\n\n"
    "Example: `sparc stream --config sparc.toml`",
)
FlinkAddress = Annotated[
    str,
    typer.Option("--flink", help="REST API of a session cluster.", metavar="HOST:PORT"),
]


def _settings(config: Path | None, data_dir: Path | None, flink: str) -> Settings:
    address = {"address": flink} if flink else None
    return configuration.load(config, data_dir, flink=address)


@app.callback()
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
    upgrade = threading.Event()
    signal.signal(signal.SIGHUP, lambda *_: upgrade.set())
    with errors_as_one_line():
        settings = _settings(config, data_dir, flink)
    again = False

    def body(stop: threading.Event, report: Report) -> None:
        from deploy.commands.job_supervision import keep

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


@app.command("upgrade")
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
    from deploy.commands.job_supervision import replace_job

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
