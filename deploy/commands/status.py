"""`sparc status`: how every part is, what is down, and how far the answers are behind."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

import httpx
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from deploy import settings as configuration
from deploy.commands.client import address_of, bearer, console
from deploy.commands.console import configure_logging, errors_as_one_line, show_json
from deploy.commands.options import AsJson, ConfigFile, DataDir
from deploy.monitoring import full_disk, moment
from deploy.monitoring.delay_quantiles import quantiles
from deploy.monitoring.moment import Moment
from deploy.monitoring.part_status import PARTS, TYPES, age_seconds, is_alive, read_statuses
from deploy.service.config import ServiceError
from deploy.settings import Settings
from indexer.snapshots.pointer import read_pointer
from streaming.statuses import PartStatus


def status(config: ConfigFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show health, lag, freshness and versions of every part of the last pipeline.

    Example: `sparc status --json`
    """
    configure_logging("error")  # what a report says of itself is in the answer
    with errors_as_one_line():
        facts = status_of(configuration.load(config, data_dir))
        if as_json:
            show_json(facts)
        else:
            show_status(facts)


def status_of(settings: Settings) -> dict[str, Any]:
    """Every part's last report, with `alive` and its age in seconds, and where things are.

    `failed` holds what is down in a pipeline that runs, by part (see
    `deploy.monitoring.part_failures.Failure`), and `disk` how much room there is.

    `freshness` tells how far the answers are behind: the age of the served snapshot, and how much
    event time lies between the newest event of a user's history and the newest that was learnt.
    """
    from deploy.monitoring.part_failures import read_failures

    now, data_dir = moment.now(), settings.data_dir
    found = {}
    for part, report in read_statuses(data_dir).all().items():
        age = age_seconds(report, now)
        seen = None if age is None else round(age, 1)
        found[part] = {"alive": is_alive(report, now), "age_seconds": seen, **report.to_json()}
    return {
        "data_dir": str(data_dir.resolve()),
        "addresses": {
            "kafka": settings.bootstrap,
            "flink": settings.flink_tls.url(settings.flink_address),
            "mlflow": settings.tracking_uri,
            "service": address_of(settings),
        },
        "freshness": _freshness(settings, found["serve"], now) | _delays(settings),
        "parts": found,
        "failed": {name: asdict(one) for name, one in read_failures(data_dir, now).items()},
        "disk": {
            "free_bytes": full_disk.free_bytes(data_dir),
            "problem": "" if full_disk.has_room(data_dir) else full_disk.sentence(data_dir),
        },
    }


def _freshness(settings: Settings, serve: dict[str, Any], now: Moment) -> dict[str, Any]:
    pointer = read_pointer(settings.data_dir)
    learnt, newest = serve.get("trained_until_ms"), serve.get("latest_event_ms")
    behind = max(0, newest - learnt) / 1000 if learnt and newest else None
    return {
        "version": pointer.version if pointer else None,
        "snapshot_age_seconds": round(max(0.0, now.wall - pointer.published_at / 1000), 1)
        if pointer
        else None,
        "event_seconds_behind": behind,
    }


def _delays(settings: Settings) -> dict[str, Any]:
    """Quantiles of the delays that the service measured, in seconds; None where it is away."""
    try:
        answer = httpx.get(f"{address_of(settings)}/metrics", timeout=2.0, headers=bearer(settings))
        text = answer.raise_for_status().text
    except (httpx.HTTPError, ServiceError):
        return {"delays": None}
    return {"delays": quantiles(text)}


DELAYS = {
    "item_retrievable": "an item that is listed can be retrieved",
    "item_withdrawn": "an item that is withdrawn is in no answer",
    "click_in_history": "a click is known to the next answer",
    "click_learnt": "a click is learnt in what serves",
}


def show_status(facts: dict[str, Any]) -> None:
    """Print `status_of` as tables."""
    from deploy.local.progress import describe

    table = Table("part", "alive", "seen", "what it says", box=SIMPLE)
    failed = facts["failed"]
    for part in (*PARTS, *(name for name in failed if name not in PARTS)):
        report = facts["parts"].get(part) or {"alive": True, "age_seconds": None}
        age = report["age_seconds"]
        alive = "[green]yes[/]" if report["alive"] else "[yellow]no[/]"
        if part == "replay" and report.get("done"):
            alive = "[cyan]done[/]"
        seen = "never" if age is None else f"{age:.0f} s ago"
        says = describe(TYPES.get(part, PartStatus).read(report))
        if failure := failed.get(part):
            alive = f"[red]{failure['state']}[/]"
            since = datetime.fromtimestamp(failure["since"]).astimezone()
            says = f"since {since:%H:%M:%S}: {failure['why']} (log: {failure['log']})"
            if failure["state"] == "failed":
                says += f"; tried again in {failure['next_try_seconds']:.0f} s"
        table.add_row(part, alive, seen, escape(says))
    console.print(table)
    if facts["disk"]["problem"]:
        console.print(f"[red]{escape(facts['disk']['problem'])}[/]", highlight=False)
    fresh = facts["freshness"]
    if fresh["version"] is not None:
        behind = fresh["event_seconds_behind"]
        console.print(
            f"{'freshness':<10} snapshot {fresh['version']} was published "
            f"{fresh['snapshot_age_seconds']:,.0f} s ago"
            + (
                "" if behind is None else f"; it is {behind:,.0f} s of event time behind the clicks"
            ),
            highlight=False,
        )
    for name, words in DELAYS.items():
        delay = (fresh["delays"] or {}).get(name)
        if delay is not None and delay["count"]:
            console.print(
                f"{'':<10} {words} after {delay['p50']:.1f} s; 95 % within {delay['p95']:.1f} s "
                f"(of {delay['count']:,} measured)",
                highlight=False,
            )
    for name, address in facts["addresses"].items():
        console.print(f"{name:<10} {address}", highlight=False, markup=False)
    console.print(f"{'data':<10} {facts['data_dir']}", highlight=False, markup=False)
