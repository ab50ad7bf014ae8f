"""The versions in the order they came: what became of each, by whose decision, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.release.decisions import Decision, decisions, read_served
from deploy.release.ledger import Ledger, ledger_path
from indexer.snapshots.pointer import SNAPSHOTS
from indexer.snapshots.snapshot_facts import SnapshotFacts
from model.artifacts.manifest import MANIFEST, ManifestError, read_manifest

SHOWN = 200


class Timeline:
    """Reads manifests once; facts of versions that have left the disk are remembered."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._facts: dict[int, tuple[SnapshotFacts, int]] = {}

    def view(self) -> dict[str, Any]:
        """Versions, oldest first, and every decision, as plain JSON values."""
        on_disk = self._read()
        made = decisions(self._data_dir)[-4 * SHOWN :]
        served = read_served(self._data_dir)
        ledger = Ledger(self._data_dir) if ledger_path(self._data_dir).is_file() else None
        aliases = ledger.aliases if ledger else {}
        registered = ledger.versions if ledger else {}
        last = {decision.version: decision for decision in made}
        numbers = sorted({*self._facts, *last, *registered})[-SHOWN:]
        found = []
        for number in numbers:
            registration = registered.get(number)
            registry_version = registration.mlflow_version if registration else None
            found.append(
                {
                    "version": number,
                    "mlflow_version": registry_version,
                    "aliases": [a for a, at in aliases.items() if at == registry_version],
                    "on_disk": number in on_disk,
                    "serving": served is not None and served.version == number,
                    **_verdict(last.get(number)),
                    **self._learnt(number),
                }
            )
        return {
            "served": served.version if served else None,
            "pinned": served.pinned if served else False,
            "aliases": aliases,
            "versions": found,
            "decisions": [
                {
                    "at_ms": d.at_ms,
                    "version": d.version,
                    "action": d.action,
                    "by": d.by,
                    "why": d.reason,
                    "before": d.before,
                    "evidence": d.evidence,
                }
                for d in made[-SHOWN:]
            ],
        }

    def _learnt(self, number: int) -> dict[str, Any]:
        facts, published = self._facts.get(number, (SnapshotFacts(), None))
        return {
            "published_ms": published,
            "trigger": facts.reason,
            "trained_events": facts.trained_events,
            "trained_until_ms": facts.trained_until_ms,
            "items": facts.indexed_items,
            "new_lists": facts.new_lists,
            "moved_items": facts.moved_items,
            "drift": facts.code_drift.summary.get("mean"),
            "recall_at_50": facts.metrics.get("recall_at_50"),
            "window_recall_at_50": facts.metrics.get("window_recall_at_50"),
            "newer": facts.newer,
        }

    def _read(self) -> set[int]:
        found = set()
        for path in (self._data_dir / SNAPSHOTS).glob(f"[0-9]*/{MANIFEST}"):
            number = int(path.parent.name)
            found.add(number)
            if number not in self._facts:
                try:
                    published = int(path.stat().st_mtime * 1000)
                    facts = SnapshotFacts.known(read_manifest(path.parent, "snapshot"))
                    self._facts[number] = (facts, published)
                except (ManifestError, OSError):
                    continue  # removed meanwhile, or its writer was killed
        for number in sorted(self._facts)[: -2 * SHOWN]:
            del self._facts[number]
        return found


def _verdict(decision: Decision | None) -> dict[str, Any]:
    return {
        "action": decision.action if decision else None,
        "by": decision.by if decision else None,
        "why": decision.reason if decision else None,
        "evidence": decision.evidence if decision else {},
    }
