"""Reports as tables: means and deviations over seeds, in JSON and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

COLUMNS = {
    "recall@20": "R@20",
    "recall@50": "R@50",
    "ndcg@50": "N@50",
    "long_tail_recall@50": "tail R@50",
    "cold_user_recall@50": "cold-user R@50",
    "cold_user_ndcg@50": "cold-user N@50",
    "cold_item_recall@50": "cold-item R@50",
    "coverage@50": "Cov@50",
    "ild@50": "ILD@50",
    "gini@50": "Gini@50",
}
"""Metrics of the tables and their short names."""

Summary = dict[str, dict[str, Any]]
"""Metric -> mean, deviation (None for a single seed), and the values by seed."""


def summary(metrics: Sequence[Mapping[str, Any]]) -> Summary:
    """Mean and sample deviation of every metric over runs that differ in their seed alone."""
    found: Summary = {}
    for name in metrics[0] if metrics else ():
        values = [one.get(name) for one in metrics]
        if any(value is None for value in values):
            continue
        numbers = np.array(values, dtype=np.float64)
        deviation = float(numbers.std(ddof=1)) if len(numbers) > 1 else None
        found[name] = {"mean": float(numbers.mean()), "deviation": deviation, "values": values}
    return found


def against(mine: Summary, other: Summary, metric: str = "recall@50") -> dict[str, Any]:
    """Mean relative change from `mine` to `other`, and that of each seed."""
    pairs = zip(mine[metric]["values"], other[metric]["values"], strict=True)
    changes = [b / a - 1 if a else None for a, b in pairs]
    known = [change for change in changes if change is not None]
    return {"mean": float(np.mean(known)) if known else None, "by_seed": changes}


def cell(value: Mapping[str, Any] | None, digits: int = 3) -> str:
    """A mean with its deviation: `.243 ±.002`; `-` where there is nothing."""
    if value is None:
        return "-"
    text = number(value["mean"], digits)
    if value["deviation"] is not None:
        text += f" ±{number(value['deviation'], digits)}"
    return text


def number(value: float, digits: int = 3) -> str:
    """A share without the leading zero, as the field writes it.

    >>> number(0.2468), number(1.0), number(-0.01)
    ('.247', '1.000', '-.010')
    """
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


def percent(change: float | None) -> str:
    """A relative change: `+4.2 %`."""
    return "-" if change is None else f"{100 * change:+.1f} %"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(markdown(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [head, ["---"] * len(head), *rows]
    ruled = ["| " + " | ".join(line) + " |" for line in lines]
    ruled[1] = "|" + "---|" * len(head)
    return "\n".join(ruled)


def metric_table(named: Mapping[str, Summary], first: str = "model") -> str:
    """A row for each name, a column for each metric, the best of a column in bold."""
    columns = [m for m in COLUMNS if any(m in s for s in named.values())]
    best: dict[str, float] = {}
    for metric in columns:
        means = [s[metric]["mean"] for s in named.values() if metric in s]
        best[metric] = min(means) if metric == "gini@50" else max(means)
    rows = []
    for name, values in named.items():
        cells = []
        for metric in columns:
            text = cell(values.get(metric))
            mine = metric in values and values[metric]["mean"] == best[metric]
            cells.append(f"**{text}**" if mine and len(named) > 1 else text)
        rows.append([name, *cells])
    return markdown([first, *(COLUMNS[m] for m in columns)], rows)
