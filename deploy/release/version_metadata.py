"""What the registry says of a snapshot: tags, metrics and a description, from its facts.

Functions over `SnapshotFacts` and the tables on disk; nothing here knows MLflow.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from deploy.release.decisions import Decision
from indexer.comparison.version_metrics import metric_name, metrics_of
from indexer.snapshots.snapshot_facts import CatalogueChanges, CodeDrift, SnapshotFacts
from model.artifacts.manifest import MANIFEST

DIGEST_TAG = "manifest_digest"
VERSION_TAG = "snapshot_version"


def utc(time_ms: int) -> str:
    """ISO 8601 in UTC, to the second, of a time in milliseconds since 1970."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def tags_of(facts: SnapshotFacts, digest: str) -> dict[str, str]:
    """Facts by which a person or a program finds the version; values are text."""
    tags = {
        "parent": facts.parent,
        "codebook_generation": facts.codebook_generation,
        "trigger": facts.reason,
        "trained_events": facts.trained_events,
        "micro_batches": facts.micro_batches,
        "catalogue_items": facts.catalogue_items,
        "indexed_items": facts.indexed_items,
        "handover": facts.sequence or None,
        "rebuilt_codes": None if facts.rebuilt_codes is None else len(facts.rebuilt_codes),
        "offsets": json.dumps(facts.offsets, sort_keys=True) if facts.offsets else None,
        VERSION_TAG: facts.version,
        "index_version": facts.version,  # a snapshot holds its lists, whoever wrote their files
        DIGEST_TAG: digest,
    }
    if facts.event_time_range:
        tags["event_time_first"], tags["event_time_last"] = map(utc, facts.event_time_range)
    return {tag: str(value) for tag, value in tags.items() if value is not None}


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


def step_of(facts: SnapshotFacts) -> int:
    """X-coordinate of the metrics: events trained until this snapshot."""
    return facts.version if facts.trained_events is None else facts.trained_events


def time_of(facts: SnapshotFacts) -> int:
    """Time of the metrics in ms: the last trained event, so that curves run over event time."""
    return facts.trained_until_ms or 0


def interval_of(
    directory: Path, facts: SnapshotFacts, parent: SnapshotFacts | None
) -> dict[str, float]:
    """Seconds between the parent's publication and this one's, where both are on disk."""
    if parent is None:
        return {}
    try:
        before, after = (
            (directory.parent / f"{one.version:08d}" / MANIFEST).stat().st_mtime
            for one in (parent, facts)
        )
    except OSError:
        return {}
    return {"publish_interval_seconds": max(0.0, after - before)}


def description_of(facts: SnapshotFacts, parent: SnapshotFacts | None) -> str:
    """Markdown for a person: what is in this version and what changed since its parent.

    `parent` are the facts of the version named by `facts.parent`, where still known.
    """
    before = parent or SnapshotFacts()
    since = f"after snapshot {facts.parent}" if facts.parent else "the first of this pipeline"
    lines = [f"**Snapshot {facts.version}**, {since}."]
    if facts.reason:
        lines.append(f"Published because of: {facts.reason}.")
    lines.append("")
    for label, now, then in (
        ("trained events", facts.trained_events, before.trained_events),
        ("items in the catalogue", facts.catalogue_items, before.catalogue_items),
        ("items in the index", facts.indexed_items, before.indexed_items),
        ("codebook generation", facts.codebook_generation, before.codebook_generation),
    ):
        if now is not None:
            lines.append(
                f"- {label}: {now:,}" + (f" ({now - then:+,})" if then is not None else "")
            )
    if facts.event_time_range:
        lines.append("- events from " + " to ".join(map(utc, facts.event_time_range)))
    if facts.rebuilt_codes is not None:
        lines.append(f"- lists written anew: {facts.new_lists}")
    if facts.moved_items is not None:
        lines.append(f"- items that came, went or moved: {facts.moved_items:,}")
    if facts.changes is not None:
        lines += _changes(facts.changes)
    lines += _most_drifted(facts.code_drift)
    metrics, earlier = metrics_of(facts), metrics_of(parent) if parent else {}
    shown = [n for n in map(metric_name, sorted(facts.metrics)) if n in metrics]
    if shown:
        lines += ["", "| metric | value | change |", "|---|---:|---:|"]
        for name in shown:
            change = f"{metrics[name] - earlier[name]:+.4g}" if name in earlier else ""
            lines.append(f"| {name} | {metrics[name]:.4g} | {change} |")
    return "\n".join(lines)


def _changes(changed: CatalogueChanges) -> list[str]:
    """What is different in the catalogue."""
    gone = f", gone: {changed.removed_items:,}" if changed.removed_items else ""
    lines = [
        f"- items new: {changed.new_items:,}{gone}",
        f"- items that changed code: {changed.moved_items:,} ({changed.moved_share:.1%})",
    ]
    if changed.moves:
        moves = ", ".join(f"{a} → {b}: {n}" for a, b, n in changed.moves)
        lines.append(f"- most frequent moves: {moves}")
    for title, before, after in changed.examples[:3]:
        lines.append(f"  - {title}: code {before} → {after}")
    return lines


def _most_drifted(drift: CodeDrift) -> list[str]:
    """`- codes that drifted most: 7 (1.20), 3 (0.80)`."""
    if not drift.movement:
        return []
    total = np.array(drift.movement) + np.array(drift.churn)
    order = np.argsort(-total, kind="stable")[:5]
    most = ", ".join(f"{code} ({total[code]:.2f})" for code in order.tolist())
    return [f"- codes that drifted most: {most}"]
