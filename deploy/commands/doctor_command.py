"""`sparc doctor`: what this machine has, what it lacks, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy import settings as configuration

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file.", metavar="FILE")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="State of the pipeline; default: that of the last one.", metavar="DIR"),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]


def add_to(app: typer.Typer) -> None:
    """Add the command to `sparc`."""
    app.command()(doctor)


def doctor(config: ConfigFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check Java, Maven, ports, disk, memory, GPU and versions, and say what to do.

    Exit code 1 where something keeps the pipeline from running.

    Example: `sparc doctor`
    """
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    from deploy.commands.app import errors_as_one_line, show_json
    from deploy.commands.doctor import as_plain, examine, healthy
    from deploy.commands.status import console

    with errors_as_one_line():
        findings = examine(configuration.load(config, data_dir))
    if as_json:
        show_json(as_plain(findings))
    else:
        colours = {"good": "green", "warning": "yellow", "bad": "red"}
        table = Table("", "", "found", "what to do", box=SIMPLE)
        for one in findings:
            grade = f"[{colours[one.grade]}]{one.grade}[/]"
            table.add_row(one.name, grade, escape(one.found), escape(one.remedy))
        console.print(table)
    if not healthy(findings):
        raise typer.Exit(1)
