"""Pictures of an evaluation, from its reports.

recall_over_time.png   weekly Recall@50, against every run beside it on the same data
coverage.png           share of the catalogue answered so far, against the same
trade_off.png          Recall@50 against the share of the catalogue scored
exploration.png        probability promised to explored codes, and what came of it
codebook.png           use of the codes, and the length of every list
drift.png              movement and churn per version, and items that kept their first code
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure

INK, GRID, FAINT = "#1f2933", "#e3e8ee", "#b8c2cc"
MINE = "#d1495b"
OTHERS = ("#00798c", "#edae49", "#30638e", "#6a994e", "#7d5ba6")
"""Of the best others; the rest is drawn faintly."""
SMOOTHED = 4
"""Weeks of which a curve shows the mean: single weeks have few queries."""

LABEL_GAP = 2.5
"""Percent of the catalogue below which labels would overlap."""

Report = dict[str, Any]


def draw(directory: Path) -> list[Path]:
    """Draw whatever the report in a directory has something to say about."""
    report = _read(directory)
    if report is None:
        return []
    drawn = [*_over_time(directory, report)]
    if report.get("trade_off"):
        drawn.append(_save(_trade_off(report), directory / "trade_off.png"))
    if report.get("exploration"):
        drawn.append(_save(_exploration(report), directory / "exploration.png"))
    if report.get("codebook", {}).get("daily"):
        drawn.append(_save(_codebook(report), directory / "codebook.png"))
        drawn.append(_save(_drift(report), directory / "drift.png"))
    return drawn


def siblings(directory: Path, report: Report) -> list[Report]:
    """Reports of the runs beside this one on the same data, best Recall@50 first, one per name."""
    found = {report["name"]: report}
    for path in sorted(directory.resolve().parent.glob("*/report.json")):
        other = _read(path.parent)
        if other and other.get("run", {}).get("data") == report["run"]["data"]:
            found.setdefault(other["name"], other)
    return sorted(found.values(), key=lambda r: -(r["metrics"]["recall@50"] or 0))


def _over_time(directory: Path, report: Report) -> list[Path]:
    if not report.get("weekly"):
        return []
    together = siblings(directory, report)
    drawn = []
    for metric, name, title, weeks in (
        ("recall@50", "recall_over_time.png", f"Recall@50, mean of {SMOOTHED} weeks", SMOOTHED),
        ("coverage@50", "coverage.png", "Share of the catalogue answered so far", 1),
    ):
        figure, axes = canvas(title)
        curves([(r["name"], r["weekly"][metric]) for r in together], report["name"], axes, weeks)
        drawn.append(_save(figure, directory / name))
    return drawn


def curves(
    named: Sequence[tuple[str, list[dict[str, Any]]]], mine: str, axes: Axes, weeks: int = SMOOTHED
) -> None:
    """Draw weekly curves, best first; `mine` stands out, the five best others have a colour."""
    colours = iter(OTHERS)
    ends = []
    for name, curve in named:
        if not curve:
            continue
        days: Any = [_date(week["day"]) for week in curve]
        values = _smoothed(curve, weeks)
        colour = MINE if name == mine else next(colours, FAINT)
        width = 2.4 if name == mine else 1.5
        axes.plot(days, values, color=colour, linewidth=width, zorder=3 if name == mine else 2)
        ends.append((values[-1], days[-1], name, colour))
    _label_ends(ends, axes)


def draw_intervals(
    path: Path, means: dict[str, dict[str, Any]], weekly: dict[str, list[dict[str, Any]]]
) -> Path:
    """Draw Recall@50 against the publish interval: over all queries (left), by week (right).

    Args:
        path: of the picture.
        means: mean and deviation over seeds of each interval, the shortest first.
        weekly: weekly curves of one seed.
    """
    figure, (left, right) = canvas("Recall@50 by publish interval", panels=2)
    colours = [MINE, *OTHERS]
    for place, ((label, value), colour) in enumerate(zip(means.items(), colours, strict=False)):
        left.bar(place, value["mean"], 0.6, yerr=value["deviation"], color=colour)
        left.annotate(f"{value['mean']:.3f}", (place, value["mean"]), (0, 6), ha="center",
                      textcoords="offset points", fontsize=9, color=INK)  # fmt: skip
        curve = weekly[label]
        if curve:
            days: Any = [_date(week["day"]) for week in curve]
            right.plot(days, _smoothed(curve, SMOOTHED), color=colour, label=label)
    left.set_xticks(range(len(means)), list(means))
    left.margins(y=0.12)
    right.set_ylim(bottom=0)
    right.set_title(f"Mean of {SMOOTHED} weeks", loc="left", color=INK, fontsize=11,
                    fontweight="bold")  # fmt: skip
    right.legend(frameon=False, fontsize=8)
    _few_dates(right)
    return _save(figure, path)


def canvas(title: str, panels: int = 1, height: float = 4.2) -> tuple[Figure, Any]:
    """A figure and its axes, in the look of all pictures."""
    figure = Figure(figsize=(9.6, height), layout="constrained", facecolor="white")
    axes = figure.subplots(1, panels)
    for one in np.atleast_1d(axes):
        one.spines[["top", "right", "left"]].set_visible(False)
        one.spines["bottom"].set_color(FAINT)
        one.tick_params(colors=INK, labelsize=9, length=0)
        one.grid(axis="y", color=GRID, linewidth=0.8)
        one.set_axisbelow(True)
    first = np.atleast_1d(axes)[0]
    first.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
    return figure, axes


def _trade_off(report: Report) -> Figure:
    figure, axes = canvas("Recall@50 against the share of the catalogue scored")
    rows = report["trade_off"]
    share = [100 * row["share_scored"] for row in rows]
    recall = [row["recall@50"] for row in rows]
    axes.axhline(0.97 * recall[-1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate("97 % of the exhaustive ranking", (100, 0.97 * recall[-1]), (0, -12),
                  textcoords="offset points", ha="right", color=INK, fontsize=8)  # fmt: skip
    alone = [row["lists_alone"] for row in rows if "lists_alone" in row]
    if alone and any(one["recall@50"] != y for one, y in zip(alone, recall, strict=True)):
        axes.plot(
            [100 * one["share_scored"] for one in alone],
            [one["recall@50"] for one in alone],
            color=OTHERS[0],
            linewidth=1.5,
            marker="o",
            markersize=3.5,
            label="the lists alone",
        )
    axes.plot(share, recall, color=MINE, linewidth=2, marker="o", markersize=4.5, label="served")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    chosen = {row["codes"]: x for row, x in zip(rows, share, strict=True)}
    served_at = chosen.get(report["retrieval"]["codes"], float("-inf"))
    for x, y, row in zip(share, recall, rows, strict=True):
        served = row["codes"] == report["retrieval"]["codes"]
        if not served and abs(x - served_at) < LABEL_GAP:
            continue
        axes.annotate(
            str(row["codes"]),
            (x, y),
            (0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            fontweight="bold" if served else "normal",
            color=MINE if served else INK,
        )
    axes.set_xlabel(
        "% of the catalogue scored; the numbers are codes searched, those served in bold", color=INK
    )
    axes.set_ylim(0, max(recall) * 1.15)
    axes.set_xlim(-2, 103)
    return figure


def _exploration(report: Report) -> Figure:
    figure, (left, right) = canvas("Explored codes, by week", panels=2)
    weekly = report["exploration"]["weekly"]
    days = [_date(week["day"]) for week in weekly]
    for key, label, colour in (
        ("probability", "probability promised", MINE),
        ("share_of_targets", "share of targets found there", OTHERS[0]),
        ("share_of_answers", "share of the answers", OTHERS[1]),
    ):
        left.plot(days, [week["explored"][key] for week in weekly], color=colour, label=label)
    left.set_ylim(0, 1)
    left.legend(frameon=False, fontsize=8)
    _few_dates(left)
    for kind, colour in (("explored", MINE), ("known", OTHERS[0])):
        bins = [b for b in report["exploration"]["calibration"][kind] if b["pairs"] >= 100]
        right.plot(
            [b["promised"] for b in bins],
            [max(b["observed"], 1e-5) for b in bins],
            color=colour,
            marker="o",
            markersize=4,
            label=f"{kind} codes",
        )
    right.plot([1e-4, 1], [1e-4, 1], color=FAINT, linewidth=1)
    right.set(xscale="log", yscale="log", xlim=(1e-4, 1), ylim=(1e-4, 1))
    right.set_title("Promised p(c | u) against what came", loc="left", color=INK, fontsize=11,
                    fontweight="bold")  # fmt: skip
    right.set_xlabel("promised", color=INK)
    right.set_ylabel("observed", color=INK)
    right.legend(frameon=False, fontsize=8)
    return figure


def _codebook(report: Report) -> Figure:
    figure, (left, right) = canvas("Use of the first-level codes", panels=2)
    daily = report["codebook"]["daily"]
    days = [_date(entry["day"]) for entry in daily]
    left.plot(days, [e["codes_in_use"] for e in daily], color=OTHERS[0], label="codes in use")
    left.plot(days, [e["perplexity"] for e in daily], color=MINE, label="perplexity / codes")
    left.plot(days, [e["cosine"] for e in daily], color=OTHERS[1], label="cosine to centroid")
    left.set_ylim(0, 1.05)
    left.legend(frameon=False, fontsize=8, loc="lower left")
    _few_dates(left)
    sizes = report["codebook"]["list_sizes"]
    sizes_WC = np.array([entry["sizes"] for entry in sizes])
    image = right.imshow(sizes_WC.T, aspect="auto", cmap="magma_r", interpolation="nearest")
    right.grid(visible=False)
    ticks = np.linspace(0, len(sizes) - 1, min(4, len(sizes))).astype(int)
    right.set_xticks(ticks, [f"{_date(sizes[t]['day']):%Y-%m}" for t in ticks])
    right.set_ylabel("code", color=INK)
    right.set_title("Items of each code", loc="left", color=INK, fontsize=11, fontweight="bold")
    figure.colorbar(image, ax=right, shrink=0.85)
    return figure


def _drift(report: Report) -> Figure:
    figure, (left, right) = canvas("Drift per version, by traffic", panels=2)
    daily = [entry for entry in report["codebook"]["daily"] if "drift" in entry]
    days = [_date(entry["day"]) for entry in daily]
    for key, label, colour in (
        ("movement", "centroid movement, in radii", MINE),
        ("churn", "share of traffic that changed code", OTHERS[0]),
    ):
        left.plot(days, [entry["drift"][key] for entry in daily], color=colour, label=label)
    left.set_ylim(bottom=0)
    left.legend(frameon=False, fontsize=8)
    _few_dates(left)
    right.plot(days, [entry["same_code_as_first"] for entry in daily], color=MINE)
    right.set_ylim(0, 1.02)
    right.set_title("Items still at the code of the first version", loc="left", color=INK,
                    fontsize=11, fontweight="bold")  # fmt: skip
    _few_dates(right)
    return figure


def _smoothed(curve: list[dict[str, Any]], weeks: int) -> np.ndarray:
    """Means over the last few weeks, weighted by queries."""
    queries = np.array([week["queries"] for week in curve], dtype=np.float64)
    sums = np.cumsum(queries * np.array([week["value"] for week in curve]))
    counts = np.cumsum(queries)
    before = np.maximum(np.arange(len(curve)) - weeks, -1)
    since = np.where(before >= 0, sums[before], 0.0)
    asked = np.where(before >= 0, counts[before], 0.0)
    return np.asarray((sums - since) / (counts - asked))


def _label_ends(ends: list[tuple[float, Any, str, str]], axes: Axes) -> None:
    """Names at the ends of the lines, moved apart where they would overlap."""
    axes.margins(x=0.01)
    axes.autoscale(axis="y")
    axes.set_ylim(bottom=0)
    low, high = axes.get_ylim()
    gap, last = 0.045 * (high - low), float("-inf")
    for value, day, name, colour in sorted(ends, key=lambda end: end[0]):
        last = max(value, last + gap)
        axes.annotate(
            name,
            (day, value),
            xytext=(1.01, last),
            textcoords=("axes fraction", "data"),
            color=colour if colour != FAINT else INK,
            fontsize=9,
            va="center",
            annotation_clip=False,
        )
    _few_dates(axes)


def _few_dates(axes: Axes) -> None:
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=3, maxticks=6))
    axes.xaxis.set_major_formatter(DateFormatter("%d %b %y"))


def _date(day: int) -> datetime:
    return datetime.fromtimestamp(day * 86_400, UTC)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=144)
    return path


def _read(directory: Path) -> Report | None:
    try:
        report: Report = orjson.loads((directory / "report.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return report if "metrics" in report and "run" in report else None
