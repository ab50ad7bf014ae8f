"""`sparc promote`, `sparc rollback` and `sparc compare`: which version serves, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy import settings as configuration
from deploy.private import keep_private

if TYPE_CHECKING:
    from deploy.release.decisions import Decision
    from deploy.release.ledger import Download

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file.", metavar="FILE")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="State of the pipeline; default: that of the last one.", metavar="DIR"),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]
VERSION = "7, v7 (the registry's number), champion, previous, challenger or newest"


def add_to(app: typer.Typer) -> None:
    """Add the commands to `sparc`."""
    app.command()(rollback)
    app.command()(promote)
    app.command()(compare)


def rollback(
    version: Annotated[
        str | None, typer.Argument(help=f"{VERSION}; default: the one before.")
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Serve the version before (or the named one) at once, and stay there.

    The version is pinned: newer ones are built and registered, but none is promoted until
    `sparc promote` names one. Works with the registry down; the aliases follow.

    Examples: `sparc rollback`, `sparc rollback 12`
    """
    from deploy.commands.app import configure_logging, errors_as_one_line
    from deploy.release import promotion

    configure_logging("warning")
    with errors_as_one_line():
        settings = configuration.load(config, data_dir)
        keep_private(settings.data_dir)
        _show(promotion.roll_back(settings.data_dir, version, _from_registry(settings)), as_json)


def promote(
    version: Annotated[str, typer.Argument(help=VERSION)],
    pin: Annotated[
        bool, typer.Option("--pin", help="Stay there: promote nothing newer by itself.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Serve a version, whatever the judge said, and release a pinned one.

    Without --pin, newer versions are again promoted when they are not worse.

    Examples: `sparc promote challenger`, `sparc promote newest`, `sparc promote 12 --pin`
    """
    from deploy.commands.app import configure_logging, errors_as_one_line
    from deploy.release import promotion

    configure_logging("warning")
    with errors_as_one_line():
        settings = configuration.load(config, data_dir)
        keep_private(settings.data_dir)
        download = _from_registry(settings)
        _show(promotion.promote(settings.data_dir, version, download, pin=pin), as_json)


def compare(
    a: Annotated[str, typer.Argument(help=VERSION)],
    b: Annotated[str, typer.Argument(help=VERSION)],
    user: Annotated[int | None, typer.Option(help="Also show what this user gets.")] = None,
    k: Annotated[int, typer.Option(help="Items of a sample answer.", min=1, max=50)] = 5,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions: metrics, the same events, codes that moved, items, answers.

    Asks the running service, which knows recent events and users; without one, the snapshots on
    disk are compared.

    Example: `sparc compare previous champion`
    """
    from deploy.commands import comparing
    from deploy.commands.app import configure_logging, errors_as_one_line, show_json

    configure_logging("warning")
    with errors_as_one_line():
        settings = configuration.load(config, data_dir)
        found = comparing.compared(settings, a, b, user, k)
        if as_json:
            show_json(found)
        else:
            comparing.show(found)


def _from_registry(settings: configuration.Settings) -> Download:
    """What brings a version back that is not on disk any more."""

    def download(mlflow_version: int, directory: Path, digest: str) -> None:
        from mlflow.exceptions import MlflowException  # seconds, and only where it is needed

        from deploy.registry.mlflow_registry import Registry
        from deploy.release.ledger import Ledger

        registry = settings.registry
        try:
            Registry(
                registry.let_in(settings.tracking_uri),
                registry.model_name,
                registry.experiment,
                Ledger(settings.data_dir).pipeline,
                settings.search,
            ).download(mlflow_version, directory, digest)
        except (MlflowException, OSError) as error:
            raise RuntimeError(
                f"version {int(directory.name)} is not on disk any more, and the registry at "
                f"{settings.tracking_uri} does not give it back: {error}"
            ) from error

    return download


def _show(decision: Decision, as_json: bool) -> None:
    from dataclasses import asdict

    from deploy.commands.app import show_json

    if as_json:
        show_json(asdict(decision))
        return
    words: dict[str, Any] = {
        "pinned": "serves and is pinned; `sparc promote newest` goes back to following",
        "promoted": "serves; newer versions are promoted when they are not worse",
    }
    print(f"version {decision.version} {words[decision.action]}")
