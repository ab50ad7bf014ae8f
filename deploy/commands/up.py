"""`sparc up`: the whole pipeline on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.commands.console import (
    configure_logging,
    errors_as_one_line,
    show_json,
    until_signalled,
)
from deploy.commands.options import ConfigFile


def up(
    events: Annotated[
        Path | None,
        typer.Option(
            help="The log, in any of the known formats, plain or gzipped; without one a synthetic "
            "log is made.",
            metavar="FILE",
        ),
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help="Its catalogue: titles, categories.", metavar="FILE")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="A published log to download, such as amazon-2014-beauty."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Events per second; 0 for no limit.", min=0)
    ] = None,
    speedup: Annotated[
        float | None, typer.Option(help="Event time per real time, as a factor.", min=0.001)
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first bad line of the log.")
    ] = False,
    drain: Annotated[
        bool,
        typer.Option(
            "--drain",
            help="Follow the log to its end through every part, print a summary as one JSON "
            "object on the last line, and stop.",
        ),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew: forget what this log's pipeline learnt.")
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="State of the pipeline; default: one per log in data/.", metavar="DIR"),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Run the whole pipeline on this machine, supervised, until Ctrl-C (or, with --drain, the end).

    Examples:
    `sparc up` makes its own log;
    `sparc up --events ratings_Beauty.csv --items meta_Beauty.json.gz --speedup 100000`;
    `sparc up --dataset amazon-2014-beauty --drain`
    """
    options = dict(locals())  # those of `launch.Wish`
    configure_logging("warning")
    from deploy.local import launch

    with errors_as_one_line():
        summary = launch.run(launch.Wish(**options), until_signalled())
    if summary is not None:
        show_json(summary)
