"""`sparc config`: the effective configuration."""

from __future__ import annotations

import typer

from deploy import settings as configuration
from deploy.commands.console import errors_as_one_line, show_json
from deploy.commands.options import AsJson, ConfigFile, DataDir

app = typer.Typer(no_args_is_help=True, help="The effective configuration.")


@app.command("show")
def show(config: ConfigFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Print the effective configuration: flags, `SPARC_...` variables, TOML file, defaults.

    Secrets are shown as asterisks; a file made of it needs them put in.

    Example: `sparc config show > sparc.toml`
    """
    with errors_as_one_line():
        settings = configuration.load(config, data_dir)
        if as_json:
            show_json(configuration.complete(settings))
        else:
            print(configuration.as_toml(configuration.complete(settings)), end="")
