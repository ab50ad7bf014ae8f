"""`sparc config`: the effective configuration."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from deploy import settings as configuration
from deploy.commands.console import errors_as_one_line, show_json
from deploy.commands.options import AsJson, ConfigFile, DataDir

app = typer.Typer(no_args_is_help=True, help="The effective configuration.")


@app.command("show")
def show(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="With what each setting means, and where its value is from."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the effective configuration: flags, `SPARC_...` variables, TOML file, defaults.

    Secrets are shown as asterisks; a file made of it needs them put in.

    Examples: `sparc config show > sparc.toml`, `sparc config show --explain`
    """
    from deploy.settings.explanation import as_commented_toml, explained

    with errors_as_one_line():
        if explain:
            found = explained(config, data_dir)
            if as_json:
                show_json([asdict(one) for one in found])
            else:
                print(as_commented_toml(found), end="")
            return
        whole = configuration.complete(configuration.load(config, data_dir))
        if as_json:
            show_json(whole)
        else:
            print(configuration.as_toml(whole), end="")
