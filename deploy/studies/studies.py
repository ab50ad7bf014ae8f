"""Runs that belong together: the controls over several seeds, and the publish intervals.

    DIR/seed-S/sparc/          the full model, also answering in the other ways
    DIR/seed-S/<control>/      a control that is trained anew
    DIR/controls.json, .md     mean and deviation over the seeds, and the change against SPARC
    DIR/intervals.json, .md, .png

Both read the same runs of the full model, and a run that is there already is not played again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from deploy.settings import Settings
from deploy.studies import plots, runs, tables, tracking
from deploy.studies.runs import Data
from indexer.evaluation import ablations

INTERVALS = {
    "every event day": None,
    "every week": "published_weekly",
    "every month": "published_monthly",
    "never": "published_never",
}
"""Row of the table -> way of answering; None is the served answer."""


def play_controls(
    data: Data,
    settings: Settings,
    out: Path,
    seeds: Sequence[int],
    *,
    device: str = "cpu",
    only: Sequence[str] = (),
    tracking_uri: str,
) -> dict[str, Any]:
    """Play what is missing, then write the table of controls.

    Args:
        data: what to play.
        settings: of SPARC.
        out: directory of the study.
        seeds: each is played.
        device: "cpu" or "cuda".
        only: names of the controls that are trained anew; empty: all of them.
        tracking_uri: MLflow.

    Returns:
        What `controls.json` holds.
    """
    trained = {n: make for n, make in ablations.TRAINED.items() if not only or n in only}
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        report = play_sparc(data, settings, out, seed, device=device, tracking_uri=tracking_uri)
        found.setdefault(runs.SPARC, []).append(report["metrics"])
        for name in ablations.SERVED:
            found.setdefault(name, []).append(report["ways"][name]["metrics"])
        for name, make in trained.items():
            place = out / f"seed-{seed}" / name
            report, fresh = runs.play(
                name, data, settings, place, seed=seed, device=device, make=make
            )
            if fresh:
                _log(report, place, settings, tracking_uri, "controls")
            found.setdefault(name, []).append(report["metrics"])
    return write_controls(out, found, seeds)


def play_sparc(
    data: Data,
    settings: Settings,
    out: Path,
    seed: int,
    *,
    device: str = "cpu",
    tracking_uri: str,
) -> dict[str, Any]:
    """The full model with every other way of answering, unless it is there."""
    place = out / f"seed-{seed}" / runs.SPARC
    report, fresh = runs.play(
        runs.SPARC, data, settings, place, seed=seed, device=device, ways=runs.ALL_WAYS
    )
    if fresh:
        plots.draw(place)
        _log(report, place, settings, tracking_uri, "study")
    return report


def write_controls(
    out: Path, found: dict[str, list[dict[str, Any]]], seeds: Sequence[int]
) -> dict[str, Any]:
    """Write `controls.json` and `controls.md` from the metrics of each control by seed."""
    named = {n: tables.summary(found[n]) for n in ablations.NAMES if n in found}
    changes = _changes(named, runs.SPARC)
    result = {"seeds": list(seeds), "metrics": named, "change": changes}
    rows = {}
    for name, values in named.items():
        change = tables.percent(changes[name]["recall@50"]["mean"]) if name in changes else ""
        rows[f"{ablations.NAMES[name]} {change}".strip()] = values
    _write(out / "controls", result, tables.metric_table(rows, "control, change of R@50"))
    return result


def play_intervals(
    data: Data,
    settings: Settings,
    out: Path,
    seeds: Sequence[int],
    *,
    device: str = "cpu",
    tracking_uri: str,
) -> dict[str, Any]:
    """Play what is missing, then write table and plot of quality against publish interval."""
    reports = [
        play_sparc(data, settings, out, seed, device=device, tracking_uri=tracking_uri)
        for seed in seeds
    ]
    return write_intervals(out, reports)


def write_intervals(out: Path, reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write `intervals.json`, `.md` and `.png` from the full model's reports by seed."""
    named, versions, weekly = {}, {}, {}
    for label, way in INTERVALS.items():
        parts = [report if way is None else report["ways"][way] for report in reports]
        named[label] = tables.summary([part["metrics"] for part in parts])
        daily = len(reports[0]["codebook"]["daily"])
        versions[label] = daily if way is None else parts[0]["versions"]
        weekly[label] = parts[0]["weekly"].get("recall@50", [])
    result = {
        "seeds": [report["seed"] for report in reports],
        "metrics": named,
        "versions": versions,
        "change": _changes(named, "every event day"),
    }
    rows = {f"{label} ({versions[label]} versions)": values for label, values in named.items()}
    _write(out / "intervals", result, tables.metric_table(rows, "published"))
    means = {label: values["recall@50"] for label, values in named.items()}
    plots.draw_intervals(out / "intervals.png", means, weekly)
    return result


def _changes(named: dict[str, tables.Summary], base: str) -> dict[str, Any]:
    """Relative change of every other row against the base, seed by seed."""
    return {
        name: {m: tables.against(named[base], values, m) for m in ("recall@50", "ndcg@50")}
        for name, values in named.items()
        if name != base
    }


def _write(path: Path, result: dict[str, Any], table: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = orjson.dumps(result, option=orjson.OPT_INDENT_2)
    path.with_suffix(".json").write_bytes(text + b"\n")
    path.with_suffix(".md").write_text(table + "\n", encoding="utf-8")


def _log(
    report: dict[str, Any], place: Path, settings: Settings, tracking_uri: str, command: str
) -> None:
    experiment = settings.evaluation.experiment
    tracking.log_run(report, place, tracking_uri, experiment, {"command": command})
