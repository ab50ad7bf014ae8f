"""Options that many commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file.", metavar="FILE")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="State of the pipeline; default: that of the last one.", metavar="DIR"),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]
