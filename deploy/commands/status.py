"""Questions to a pipeline from outside: its status, an answer of its service, its snapshots."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import httpx
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.local.progress import describe
from deploy.monitoring import full_disk, moment
from deploy.monitoring.freshness import quantiles
from deploy.monitoring.moment import Moment
from deploy.monitoring.part_failures import read_failures
from deploy.monitoring.part_status import PARTS, age_seconds, is_alive, read_statuses
from deploy.release.errors import RegistryError
from deploy.release.ledger import registered_versions
from deploy.service.config import ServiceError
from deploy.settings import Settings
from indexer.snapshots.pointer import read_pointer
from model.artifacts.manifest import ManifestError, read_manifest

console = Console(soft_wrap=True)


class QuestionError(RuntimeError):
    """The service or the registry does not answer, or refuses the question."""


def _service(settings: Settings) -> str:
    return f"http://{settings.service.host}:{settings.ports.service}"


def bearer(settings: Settings) -> dict[str, str]:
    """The header that a service with a token asks for; empty without one."""
    token = settings.service.bearer()
    return {"Authorization": f"Bearer {token}"} if token else {}


def status(settings: Settings) -> dict[str, Any]:
    """Every part's last report, with `alive` and its age in seconds, and where things are.

    `failed` holds what is down in a pipeline that runs, by part (see
    `deploy.monitoring.part_failures.Failure`), and `disk` how much room there is.

    `freshness` tells how far the answers are behind: the age of the served snapshot, and how much
    event time lies between the newest event of a user's history and the newest that was learnt.
    """
    now, data_dir = moment.now(), settings.data_dir
    found = {}
    for part, report in read_statuses(data_dir).items():
        age = age_seconds(report, now)
        seen = None if age is None else round(age, 1)
        found[part] = {"alive": is_alive(report, now), "age_seconds": seen, **report}
    return {
        "data_dir": str(data_dir.resolve()),
        "addresses": {
            "kafka": settings.bootstrap,
            "flink": settings.flink_tls.url(settings.flink_address),
            "mlflow": settings.tracking_uri,
            "service": _service(settings),
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
        answer = httpx.get(f"{_service(settings)}/metrics", timeout=2.0, headers=bearer(settings))
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
    """Print `status` as a table."""
    table = Table("part", "alive", "seen", "what it says", box=SIMPLE)
    failed = facts["failed"]
    for part in (*PARTS, *(name for name in failed if name not in PARTS)):
        report = facts["parts"].get(part) or {"alive": True, "age_seconds": None}
        age = report["age_seconds"]
        alive = "[green]yes[/]" if report["alive"] else "[yellow]no[/]"
        if part == "replay" and report.get("done"):
            alive = "[cyan]done[/]"
        seen = "never" if age is None else f"{age:.0f} s ago"
        says = describe(report, part)
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


def retrieve(
    settings: Settings, user: str | None, history: str | None, k: int, codes: int | None
) -> dict[str, Any]:
    """Ask the service.

    Raises:
        QuestionError: if it does not answer, or refuses.
        ValueError: if neither or both of user and history are given.
    """
    if (user is None) == (history is None):
        raise ValueError("give either --user or --history")
    question: dict[str, Any] = {"k": k}
    if user is not None:
        question["user_id"] = user
    else:
        words = map(str.strip, (history or "").split(","))
        question["history"] = [word for word in words if word]
    if codes is not None:
        question["codes"] = codes
    address = f"{_service(settings)}/v1/retrieve"
    try:
        answer = httpx.post(address, json=question, timeout=10.0, headers=bearer(settings))
    except httpx.HTTPError as error:
        raise QuestionError(
            f"no service answers at {address} ({error}); start it with ./deploy/start_pipeline.sh "
            "or `sparc serve`"
        ) from error
    if answer.status_code != 200:
        raise QuestionError(f"{address} answers {answer.status_code}: {answer.text}")
    return answer.json()


def show_answer(answer: dict[str, Any]) -> None:
    """Print the codes that were searched, then the items with the code that brought each."""
    known = {True: "known user", False: "unknown user: the interest prior answers", None: "history"}
    console.print(f"snapshot {answer['version']}, {known[answer['known_user']]}")
    codes = Table("code", "probability", "items of the answer", box=SIMPLE)
    for code in answer["searched"]:
        codes.add_row(str(code["code"]), f"{code['probability']:.3f}", str(code["quota"]))
    console.print(codes)
    items = Table("", "item", "title", "category", "code", "p(code)", "score", box=SIMPLE)
    for rank, item in enumerate(answer["items"], 1):
        items.add_row(
            str(rank),
            escape(item["external_id"] or str(item["item_id"])),
            escape(item["title"]),
            escape(item["category"]),
            str(item["code"]),
            f"{item['code_probability']:.3f}",
            f"{item['score']:.2f}",
        )
    console.print(items)


def _aliases(settings: Settings) -> dict[int, list[str]] | None:
    """Aliases by MLflow's version; None where the registry does not answer."""
    try:
        answer = httpx.get(
            f"{settings.tracking_uri}/api/2.0/mlflow/registered-models/get",
            params={"name": settings.registry.model_name},
            auth=settings.registry.basic(),
            timeout=5.0,
        )
        entries = answer.raise_for_status().json()["registered_model"].get("aliases", [])
    except (httpx.HTTPError, KeyError, ValueError, RegistryError):
        return None
    found: dict[int, list[str]] = {}
    for entry in entries:
        found.setdefault(int(entry["version"]), []).append(entry["alias"])
    return found


def snapshots(settings: Settings) -> list[dict[str, Any]]:
    """The snapshots on disk, oldest first, with their version and aliases in the registry."""
    registered = registered_versions(settings.data_dir)
    aliases = _aliases(settings)
    pointer = read_pointer(settings.data_dir)
    found = []
    for path in sorted((settings.data_dir / "snapshots").glob("[0-9]*")):
        try:
            facts = read_manifest(path, "snapshot").facts
        except ManifestError:
            continue  # its writer was killed; the indexer removes it
        version = int(path.name)
        mlflow_version = registered.get(version)
        span = facts.get("event_time_range") or [None, None]
        metrics = facts.get("metrics") or {}
        found.append(
            {
                "version": version,
                "served": pointer is not None and pointer.version == version,
                "mlflow_version": mlflow_version,
                "aliases": None if aliases is None else aliases.get(mlflow_version or 0, []),
                "reason": facts.get("reason"),
                "trained_events": facts.get("trained_events"),
                "trained_until_ms": span[1],
                "rebuilt_codes": len(facts.get("rebuilt_codes") or []),
                "items": facts.get("indexed_items"),
                "recall_at_50": metrics.get("recall_at_50"),
            }
        )
    return found


def show_snapshots(found: list[dict[str, Any]]) -> None:
    """Print `snapshots` as a table."""
    columns = "version", "registry", "aliases", "reason", "trained", "until", "lists", "R@50"
    table = Table(*columns, box=SIMPLE, padding=(0, 1, 0, 0))
    for entry in found:
        until = entry["trained_until_ms"]
        aliases = entry["aliases"]
        recall = entry["recall_at_50"]
        table.add_row(
            f"{entry['version']}{' *' if entry['served'] else ''}",
            "not yet" if entry["mlflow_version"] is None else f"v{entry['mlflow_version']}",
            "registry away" if aliases is None else ", ".join(aliases),
            str(entry["reason"] or ""),
            f"{entry['trained_events'] or 0:,}",
            "" if until is None else datetime.fromtimestamp(until / 1000, UTC).date().isoformat(),
            f"{entry['rebuilt_codes']} new",
            "" if recall is None else f"{recall:.4f}",
        )
    console.print(table)
    console.print("* served")
