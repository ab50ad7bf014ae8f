"""Pictures of a version for its page in the registry: PNG files, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.snapshots.snapshot_facts import CodeDrift, SnapshotFacts

INK, SOFT, ACCENT, WARN = "#1f2933", "#cbd2d9", "#0b7285", "#d9480f"

Points = Sequence[tuple[int, float]]
"""(event time in ms, value) of one metric, oldest first."""


def draw_plots(
    directory: Path,
    facts: SnapshotFacts,
    sizes_C: NDArray[np.int64],
    history: Mapping[str, Points],
) -> list[Path]:
    """Draw what there is data for into `directory`; returns the files.

    Args:
        directory: is made if it is missing.
        facts: of the snapshot's manifest.
        sizes_C: items of each first-level code.
        history: the pipeline's metrics up to this version, by name.
    """
    from matplotlib.figure import Figure  # no pyplot: nothing global, safe beside other threads

    directory.mkdir(parents=True, exist_ok=True)
    drawn = []

    def save(name: str, title: str, draw: Any) -> None:
        figure = Figure(figsize=(8, 4), dpi=110, layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(title, loc="left", color=INK, fontsize=11)
        axes.tick_params(colors=INK, labelsize=8)
        draw(axes)
        figure.savefig(directory / f"{name}.png")
        drawn.append(directory / f"{name}.png")

    used = int((sizes_C > 0).sum())

    def sizes(axes: Any) -> None:
        axes.bar(range(len(sizes_C)), np.sort(sizes_C)[::-1], color=ACCENT, width=0.9)
        axes.axhline(float(sizes_C.mean()), color=WARN, linewidth=1, label="mean")
        axes.set_xlabel("codes, largest first")
        axes.set_ylabel("items")
        axes.legend(frameon=False, fontsize=8)

    title = f"Version {facts.version}: {used} of {len(sizes_C)} codes hold items"
    save("size_of_codes", title, sizes)
    if facts.code_drift.movement:
        title = f"Version {facts.version}: drift since its parent"
        save("drift_per_code", title, _drift(facts.code_drift))
    for name, title, metrics in (
        (
            "recall_over_time",
            "Prequential quality until this version",
            ("recall_at_50", "window_recall_at_50", "long_tail_recall_at_50", "ndcg_at_50"),
        ),
        ("codebook_use", "Codebook until this version", ("codes_in_use", "perplexity", "cosine")),
    ):
        lines = {m: history[m] for m in metrics if len(history.get(m, ())) > 0}
        if lines:
            save(name, title, _lines(lines))
    if len(history.get("publish_interval_seconds", ())) > 0:
        points = {"publish_interval_seconds": history["publish_interval_seconds"]}
        save("freshness", "Seconds between one version and the next", _lines(points))
    return drawn


def _drift(drift: CodeDrift) -> Any:
    movement, churn = np.array(drift.movement), np.array(drift.churn)

    def draw(axes: Any) -> None:
        order = np.argsort(-(movement + churn), kind="stable")
        places = range(len(order))
        axes.bar(places, movement[order], color=ACCENT, width=0.9, label="centroid, in radii")
        axes.bar(places, churn[order], bottom=movement[order], color=WARN, width=0.9, label="churn")
        axes.set_xlabel("codes, most drifted first")
        axes.set_ylabel("drift")
        axes.legend(frameon=False, fontsize=8)

    return draw


def _lines(lines: Mapping[str, Points]) -> Any:
    def draw(axes: Any) -> None:
        for name, points in lines.items():
            times = [datetime.fromtimestamp(t / 1000, UTC) for t, _ in points]
            marker = "o" if len(points) < 40 else None
            axes.plot(times, [v for _, v in points], label=name, marker=marker, markersize=3)  # type: ignore[arg-type]
        axes.set_xlabel("event time")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color=SOFT, linewidth=0.5)
        axes.legend(frameon=False, fontsize=8)
        axes.figure.autofmt_xdate()

    return draw
