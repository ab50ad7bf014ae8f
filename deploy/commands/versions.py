"""`sparc promote`, `sparc rollback` and `sparc compare`: which version serves, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from deploy import settings as configuration
from deploy.commands.client import NoServiceError, ask, console
from deploy.commands.console import configure_logging, errors_as_one_line, show_json
from deploy.commands.options import AsJson, ConfigFile, DataDir
from deploy.private import keep_private
from deploy.settings import Settings

if TYPE_CHECKING:
    from deploy.release.decisions import Decision
    from deploy.release.ledger import Download

VERSION = "7, v7 (the registry's number), champion, previous, challenger or newest"
SHOWN_METRICS = (
    "recall_at_50",
    "window_recall_at_50",
    "ndcg_at_50",
    "long_tail_recall_at_50",
    "cold_user_recall_at_50",
    "cold_item_recall_at_50",
    "coverage_at_50",
    "codes_in_use",
    "perplexity",
    "indexed_items",
)


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
    from deploy.release import promotion

    configure_logging("warning")
    with errors_as_one_line():
        settings = configuration.load(config, data_dir)
        keep_private(settings.data_dir)
        _show_decision(
            promotion.roll_back(settings.data_dir, version, from_registry(settings)), as_json
        )


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
    from deploy.release import promotion

    configure_logging("warning")
    with errors_as_one_line():
        settings = configuration.load(config, data_dir)
        keep_private(settings.data_dir)
        download = from_registry(settings)
        _show_decision(promotion.promote(settings.data_dir, version, download, pin=pin), as_json)


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
    configure_logging("warning")
    with errors_as_one_line():
        settings = configuration.load(config, data_dir)
        found = _compared(settings, a, b, user, k)
        if as_json:
            show_json(found)
        else:
            _show_comparison(found)


def from_registry(settings: Settings) -> Download:
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


def _show_decision(decision: Decision, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        show_json(asdict(decision))
        return
    words: dict[str, Any] = {
        "pinned": "serves and is pinned; `sparc promote newest` goes back to following",
        "promoted": "serves; newer versions are promoted when they are not worse",
    }
    print(f"version {decision.version} {words[decision.action]}")


def _compared(settings: Settings, a: str, b: str, user: int | None, k: int) -> dict[str, Any]:
    """The comparison as plain values, see `indexer.comparison.versions.compare`.

    Raises:
        SwitchError: for an unknown version.
        SnapshotError: if one is not on disk or damaged.
        QuestionError: if the service refuses, or a user is given and no service runs.
    """
    from deploy.release.promotion import resolve

    first, second = (resolve(settings.data_dir, name) for name in (a, b))
    question = {"a": first, "b": second, "k": k} | ({} if user is None else {"user_id": user})
    try:
        return ask(settings, "/v1/compare", timeout=120.0, params=question)
    except NoServiceError:
        if user is not None:
            raise
        return _on_disk(settings, first, second, k)


def _on_disk(settings: Settings, a: int, b: int, k: int) -> dict[str, Any]:
    from indexer.comparison.versions import compare, usual_samples
    from indexer.search.retriever import Retriever
    from model.artifacts.verified_files import VerifiedFiles

    verified = VerifiedFiles()
    first = Retriever.of_version(settings.data_dir, a, settings.search, verified=verified)
    second = Retriever.of_version(settings.data_dir, b, settings.search, first, verified)
    return compare(first, second, [], usual_samples(second), k)


def _show_comparison(found: dict[str, Any]) -> None:
    a, b = (f"version {found[side]['version']}" for side in "ab")
    table = Table("", a, b, "change", box=SIMPLE)
    for name in ("trained_events", "items"):
        before, after = found["a"][name], found["b"][name]
        change = f"{after - before:+,}" if before is not None and after is not None else ""
        table.add_row(name.replace("_", " "), _number(before), _number(after), change)
    by_name = {one["name"]: one for one in found["metrics"]}
    for name in SHOWN_METRICS:
        if (one := by_name.get(name)) is not None:
            both = one["a"] is not None and one["b"] is not None
            change = f"{one['b'] - one['a']:+.4f}" if both else ""
            table.add_row(name, _number(one["a"]), _number(one["b"]), change)
    console.print(table)
    if (paired := found["paired"]) is not None:
        console.print(
            f"on the same {paired['queries']} recent events: recall@50 {paired['recall_a']:.4f} "
            f"and {paired['recall_b']:.4f}, difference {paired['difference']:+.4f} "
            f"[{paired['low']:+.4f}, {paired['high']:+.4f}]",
            highlight=False,
        )
    items = found["items"]
    console.print(
        f"items: {items['new']:,} new, {items['gone']:,} gone, {items['moved']:,} changed code "
        f"({items['moved_share']:.1%})",
        highlight=False,
    )
    codes = Table("code", "movement", "churn", "traffic", "items", box=SIMPLE)
    for one in found["codes"][:6]:
        codes.add_row(
            str(one["code"]),
            f"{one['movement']:.3f}",
            f"{one['churn']:.3f}",
            f"{one['traffic']:.1%}",
            f"{one['items_a']} → {one['items_b']}",
        )
    console.print("codes that moved most", codes)
    for sample in found["samples"]:
        clicked = ", ".join(_name(item) for item in sample["history"]) or "nothing yet"
        console.print(f"somebody who clicked: {escape(clicked)}", highlight=False)
        sides = Table(a, b, box=SIMPLE)
        for left, right in zip(sample["a"], sample["b"], strict=False):
            sides.add_row(escape(_name(left)), escape(_name(right)))
        console.print(sides)


def _name(item: dict[str, Any]) -> str:
    name = item.get("title") or item["external_id"]
    return name if len(name) < 48 else f"{name[:46]}…"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}".rstrip("0").rstrip(".")
