"""`sparc split`: a share of the users is answered in another way, and what they make of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from deploy import settings as configuration
from deploy.commands.client import NoServiceError, ask, console
from deploy.commands.console import configure_logging, errors_as_one_line, show_json
from deploy.commands.options import AsJson, ConfigFile, DataDir
from deploy.commands.versions import VERSION, from_registry
from deploy.private import keep_private

if TYPE_CHECKING:
    from deploy.release.split import Arm, Split
    from deploy.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Answer a share of the users in another way, and compare what they click.",
)


@app.command("set")
def set_(
    name: Annotated[str, typer.Argument(help="Of the split; it decides who is in which arm.")],
    arm: Annotated[
        list[str],
        typer.Option(
            help="NAME,share=0.1 and what is different: version=V, a setting of [search], "
            f"shadow=true. V is {VERSION}.",
            metavar="ARM",
        ),
    ],
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Run a split from now on, in the place of the one that runs.

    Who is in no arm is answered as before. A shadow arm answers into the log only.

    Examples: `sparc split set wide --arm wide,share=0.2,codes=32`,
    `sparc split set old --arm before,share=0.5,version=previous,shadow=true`
    """
    from deploy.release.split import Split, set_split

    configure_logging("warning")
    with errors_as_one_line():
        settings = configuration.load(config, data_dir)
        if not settings.service.answers.enabled:
            raise ValueError("[service.answers] enabled is false: arms are compared by that log")
        keep_private(settings.data_dir)
        arms = tuple(_arm(settings, one) for one in arm)
        for one in arms:
            one.searched(settings.search)
        split = set_split(settings.data_dir, Split(name, arms))
        if as_json:
            show_json(_plain(split))
        else:
            print(f"split {split.name} runs: " + ", ".join(_in_words(one) for one in split.arms))


@app.command()
def show(
    window_hours: Annotated[
        float, typer.Option(help="A click counts that comes so soon after the answer.", min=0.001)
    ] = 24.0,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the split that runs, and what was clicked of what each arm answered.

    Asks the running service; without one, only who is in which arm is shown.

    Example: `sparc split show --window-hours 1`
    """
    from deploy.release.split import read_split

    configure_logging("warning")
    with errors_as_one_line():
        settings = configuration.load(config, data_dir)
        split = read_split(settings.data_dir)
        if split is None:
            found: dict[str, Any] = {"split": None}
        else:
            try:
                asked = {"window_hours": window_hours}
                found = ask(settings, "/v1/split", timeout=60.0, params=asked)
            except NoServiceError:
                found = {"split": _plain(split), "arms": None}
        if as_json:
            show_json(found)
        elif split is None:
            print("no split runs: everybody is answered alike")
        else:
            print(f"split {split.name}: " + ", ".join(_in_words(one) for one in split.arms))
            _show_arms(found.get("arms"))


@app.command()
def stop(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """End the split: everybody is answered alike again.

    Example: `sparc split stop`
    """
    from deploy.release.split import stop_split

    configure_logging("warning")
    with errors_as_one_line():
        split = stop_split(configuration.load(config, data_dir).data_dir)
        print(f"split {split.name} ended" if split is not None else "no split runs")


def _arm(settings: Settings, told: str) -> Arm:
    """`wide,share=0.2,codes=32` as an arm; a version is brought to disk.

    Raises:
        SplitError: naming what is wrong with it.
        SwitchError: for an unknown version.
    """
    from deploy.release.ledger import Ledger
    from deploy.release.promotion import resolve
    from deploy.release.split import Arm, SplitError

    name, *pairs = told.split(",")
    values = dict(pair.partition("=")[::2] for pair in pairs)
    try:
        share = float(values.pop("share"))
    except KeyError:
        raise SplitError(f"arm {name!r}: share is missing; say {name},share=0.1") from None
    except ValueError as error:
        raise SplitError(f"arm {name!r}: share: {error}") from None
    shadow = values.pop("shadow", "false")
    if shadow not in ("true", "false"):
        raise SplitError(f"arm {name!r}: shadow is {shadow!r}; use true or false")
    version = values.pop("version", None)
    number = None if version is None else resolve(settings.data_dir, version)
    arm = Arm(name, share, number, values, shadow == "true")
    if number is not None:
        Ledger(settings.data_dir).bring(number, from_registry(settings))
    return arm


def _plain(split: Split) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(split)


def _in_words(arm: Arm) -> str:
    """`wide 20% (codes=32)`."""
    told = [] if arm.version is None else [f"version {arm.version}"]
    told += [f"{key}={value}" for key, value in arm.search.items()]
    told += ["into the log only"] if arm.shadow else []
    return f"{arm.name} {arm.share:.4g} of the users ({', '.join(told) or 'no difference'})"


def _show_arms(arms: list[dict[str, Any]] | None) -> None:
    if arms is None:
        print("no service runs; one would compare the arms")
        return
    head = ("arm", "users", "answers", "waiting", "items clicked", "rate", "more than default")
    table = Table(*head, box=SIMPLE)
    for one in arms:
        table.add_row(
            escape(one["arm"]) + (" (shadow)" if one["shadow"] else ""),
            f"{one['users']:,}",
            f"{one['answers']:,}",
            f"{one['waiting']:,}",
            f"{one['clicked']:,} of {one['items']:,}",
            _share(one["rate"], one["interval"]),
            _share(one.get("difference"), one.get("difference_interval"), "+"),
        )
    console.print(table)


def _share(value: float | None, interval: list[float] | None, sign: str = "") -> str:
    """`1.20% [1.00%, 1.40%]`, escaped for a table."""
    if value is None:
        return ""
    told = f"{value:{sign}.2%}"
    return f"{told} \\[{interval[0]:.2%}, {interval[1]:.2%}]" if interval else told
