"""`sparc snapshots`: the published versions, and what the registry calls them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
from rich.box import SIMPLE
from rich.table import Table

from deploy import settings as configuration
from deploy.commands.client import console
from deploy.commands.console import errors_as_one_line, show_json
from deploy.commands.options import AsJson, ConfigFile, DataDir
from deploy.release.errors import RegistryError
from deploy.release.ledger import registered_versions
from deploy.settings import Settings
from indexer.snapshots.pointer import read_pointer
from indexer.snapshots.snapshot_facts import SnapshotFacts
from model.artifacts.manifest import ManifestError, read_manifest


def snapshots(config: ConfigFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the published snapshots with their versions and aliases in the registry.

    Example: `sparc snapshots`
    """
    with errors_as_one_line():
        found = published(configuration.load(config, data_dir))
        if as_json:
            show_json(found)
        else:
            _show(found)


def published(settings: Settings) -> list[dict[str, Any]]:
    """The snapshots on disk, oldest first, with their version and aliases in the registry."""
    registered = registered_versions(settings.data_dir)
    aliases = _aliases(settings)
    pointer = read_pointer(settings.data_dir)
    found = []
    for path in sorted((settings.data_dir / "snapshots").glob("[0-9]*")):
        try:
            facts = SnapshotFacts.known(read_manifest(path, "snapshot"))
        except ManifestError:
            continue  # its writer was killed; the indexer removes it
        version = int(path.name)
        mlflow_version = registered.get(version)
        found.append(
            {
                "version": version,
                "served": pointer is not None and pointer.version == version,
                "mlflow_version": mlflow_version,
                "aliases": None if aliases is None else aliases.get(mlflow_version or 0, []),
                "reason": facts.reason,
                "trained_events": facts.trained_events,
                "trained_until_ms": facts.trained_until_ms,
                "rebuilt_codes": len(facts.rebuilt_codes or []),
                "rebuild_reasons": facts.rebuild_reasons,
                "shared_codes": facts.shared_codes,
                "moved_items": facts.moved_items,
                "new_lists": facts.new_lists,
                "items": facts.indexed_items,
                "recall_at_50": facts.metrics.get("recall_at_50"),
                "newer": facts.newer,
            }
        )
    return found


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


def _show(found: list[dict[str, Any]]) -> None:
    """Print them as a table."""
    columns = "version", "registry", "aliases", "reason", "trained", "until", "new lists", "R@50"
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
            entry["new_lists"],
            "" if recall is None else f"{recall:.4f}",
        )
    console.print(table)
    console.print("* served")
    for entry in found:
        if entry["newer"]:
            console.print(f"version {entry['version']}: {entry['newer']}")
