"""What the registry says of a snapshot: tags, metrics and a description, from its manifest.

Functions over `Manifest` and the tables on disk; nothing here knows MLflow.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deploy.release.decisions import Decision
from indexer.comparison.catalogue_changes import (
    Changes,
    changes,
    first_codes,
    metric_name,
    metrics_of,
)
from indexer.snapshots.snapshot import ITEMS
from model.artifacts.manifest import MANIFEST, Manifest

DIGEST_TAG = "manifest_digest"
VERSION_TAG = "snapshot_version"


def snapshot_version(manifest: Manifest) -> int:
    """Version number that the indexer gave the snapshot."""
    return int(manifest.facts["version"])


def utc(time_ms: int) -> str:
    """ISO 8601 in UTC, to the second, of a time in milliseconds since 1970."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def tags_of(manifest: Manifest) -> dict[str, str]:
    """Facts by which a person or a program finds the version; values are text."""
    facts = manifest.facts
    tags = {VERSION_TAG: str(snapshot_version(manifest)), DIGEST_TAG: manifest.digest}
    for tag, fact in (
        ("parent", "parent"),
        ("codebook_generation", "codebook_generation"),
        ("trigger", "reason"),
        ("trained_events", "trained_events"),
        ("micro_batches", "micro_batches"),
        ("catalogue_items", "catalogue_items"),
        ("indexed_items", "indexed_items"),
        ("handover", "sequence"),
    ):
        if facts.get(fact) is not None:
            tags[tag] = str(facts[fact])
    # Lists are written whole with each snapshot, so the index carries the snapshot's number.
    tags["index_version"] = tags[VERSION_TAG]
    if facts.get("rebuilt_codes") is not None:
        tags["rebuilt_codes"] = str(len(facts["rebuilt_codes"]))
    if facts.get("event_time_range"):
        first, last = facts["event_time_range"]
        tags["event_time_first"], tags["event_time_last"] = utc(first), utc(last)
    if facts.get("offsets"):
        tags["offsets"] = json.dumps(facts["offsets"], sort_keys=True)
    return tags


def decision_tags(decision: Decision) -> dict[str, str]:
    """What was decided about a version, for its tags; the last decision replaces those before."""
    tags = {
        "verdict": decision.action,
        "verdict_by": decision.by,
        "verdict_reason": decision.reason,
        "verdict_at": utc(decision.at_ms),
    }
    evidence = decision.evidence
    if "difference" in evidence:
        tags["verdict_against"] = str(decision.before)
        tags["verdict_queries"] = str(evidence["queries"])
        tags["verdict_recall_at_50_difference"] = f"{evidence['difference']:+.6f}"
        tags["verdict_interval"] = f"[{evidence['low']:+.6f}, {evidence['high']:+.6f}]"
    return tags


def step_of(manifest: Manifest) -> int:
    """X-coordinate of the metrics: events trained until this snapshot."""
    return int(manifest.facts.get("trained_events", snapshot_version(manifest)))


def time_of(manifest: Manifest) -> int:
    """Time of the metrics in ms: the last trained event, so that curves run over event time."""
    return int((manifest.facts.get("event_time_range") or [0, 0])[1])


def interval_of(directory: Path, manifest: Manifest, parent: Manifest | None) -> dict[str, float]:
    """Seconds between the parent's publication and this one's, where both are on disk."""
    if parent is None:
        return {}
    try:
        before, after = (
            (directory.parent / f"{snapshot_version(one):08d}" / MANIFEST).stat().st_mtime
            for one in (parent, manifest)
        )
    except (OSError, KeyError):
        return {}
    return {"publish_interval_seconds": max(0.0, after - before)}


def sizes_of(directory: Path, manifest: Manifest) -> NDArray[np.int64]:
    """Items of each first-level code, int64 (C,); empty where the table is not readable."""
    try:
        codes = first_codes(pq.read_table(directory / ITEMS, columns=["codes"]))
    except (OSError, pa.ArrowException):
        return np.zeros(0, np.int64)
    return np.bincount(codes, minlength=int(manifest.facts.get("codes") or 0))


def changes_in(directory: Path, parent: Manifest | None) -> Changes | None:
    """What changed in the catalogue since the parent, where it is on disk beside `directory`."""
    if parent is None:
        return None
    try:
        return changes(directory.parent / f"{snapshot_version(parent):08d}", directory)
    except (OSError, KeyError):
        return None


def description_of(
    manifest: Manifest, parent: Manifest | None, changed: Changes | None = None
) -> str:
    """Markdown for a person: what is in this version and what changed since its parent.

    `parent` is the manifest of the version named by `facts["parent"]`, where still known;
    `changed` what is different in its catalogue.
    """
    facts = manifest.facts
    before = parent.facts if parent else {}

    def counted(name: str, label: str) -> str | None:
        if not isinstance(facts.get(name), int):
            return None
        change = facts[name] - before[name] if isinstance(before.get(name), int) else None
        return f"- {label}: {facts[name]:,}" + (f" ({change:+,})" if change is not None else "")

    number = snapshot_version(manifest)
    since = facts.get("parent")
    lines = [
        f"**Snapshot {number}**"
        + (", the first of this pipeline." if since is None else f", after snapshot {since}.")
    ]
    if facts.get("reason"):
        lines.append(f"Published because of: {facts['reason']}.")
    lines.append("")
    lines += filter(
        None,
        (
            counted("trained_events", "trained events"),
            counted("catalogue_items", "items in the catalogue"),
            counted("indexed_items", "items in the index"),
            counted("codebook_generation", "codebook generation"),
        ),
    )
    if facts.get("event_time_range"):
        first, last = facts["event_time_range"]
        lines.append(f"- events from {utc(first)} to {utc(last)}")
    if facts.get("rebuilt_codes") is not None:
        rebuilt = facts["rebuilt_codes"]
        lines.append(f"- lists rebuilt: {len(rebuilt)}" + _reasons(facts.get("reasons")))
    if changed is not None:
        lines += changed.lines()
    lines += _most_drifted(facts.get("code_drift"))
    metrics, earlier = metrics_of(manifest), metrics_of(parent) if parent else {}
    shown = [n for n in map(metric_name, sorted(facts.get("metrics") or {})) if n in metrics]
    if shown:
        lines += ["", "| metric | value | change |", "|---|---:|---:|"]
        for name in shown:
            change = f"{metrics[name] - earlier[name]:+.4g}" if name in earlier else ""
            lines.append(f"| {name} | {metrics[name]:.4g} | {change} |")
    return "\n".join(lines)


def _most_drifted(drift: object) -> list[str]:
    """`- codes that drifted most: 7 (1.20), 3 (0.80)`."""
    if not isinstance(drift, dict) or not drift.get("movement"):
        return []
    total = np.array(drift["movement"]) + np.array(drift["churn"])
    order = np.argsort(-total, kind="stable")[:5]
    most = ", ".join(f"{code} ({total[code]:.2f})" for code in order.tolist())
    return [f"- codes that drifted most: {most}"]


def _reasons(reasons: object) -> str:
    """Reasons of the rebuilt lists, most frequent first: ` (drift 5, moved items 2)`."""
    if not isinstance(reasons, dict) or not reasons:
        return ""
    counts: dict[str, int] = {}
    for reason in reasons.values():
        words = " and ".join(map(str, reason)) if isinstance(reason, list) else str(reason)
        counts[words] = counts.get(words, 0) + 1
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return " (" + ", ".join(f"{reason} {count}" for reason, count in ordered[:5]) + ")"
