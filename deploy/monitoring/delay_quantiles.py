"""The delays of `deploy.monitoring.freshness`, read from what Prometheus scrapes."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

METRICS = {
    "item_retrievable": "sparc_freshness_item_retrievable_seconds",
    "item_withdrawn": "sparc_freshness_item_withdrawn_seconds",
    "click_in_history": "sparc_freshness_click_in_history_seconds",
    "click_learnt": "sparc_freshness_click_learnt_seconds",
}


def quantiles(exposition: str) -> dict[str, dict[str, float | int | None]]:
    """p50 and p95 in seconds, and the count, of each delay in the text that Prometheus scrapes.

    Within a bucket values count as spread evenly, as Prometheus has it; None before the first.
    """
    return {
        name: {
            "p50": quantile(cumulative, 0.5),
            "p95": quantile(cumulative, 0.95),
            "count": int(cumulative[-1][1]) if cumulative else 0,
        }
        for name, cumulative in buckets(exposition).items()
    }


def buckets(exposition: str) -> dict[str, list[tuple[float, float]]]:
    """(upper bound in seconds, count up to it) of each delay, ascending."""
    found: dict[str, list[tuple[float, float]]] = {metric: [] for metric in METRICS.values()}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if family.name in found and sample.name.endswith("_bucket"):
                found[family.name].append((float(sample.labels["le"]), sample.value))
    return {name: found[metric] for name, metric in METRICS.items()}


def quantile(cumulative: list[tuple[float, float]], q: float) -> float | None:
    """Of (upper bound, count up to it), ascending, the last bound infinite; None of nothing."""
    if not cumulative or cumulative[-1][1] == 0:
        return None
    wanted, low, below = q * cumulative[-1][1], 0.0, 0.0
    for bound, count in cumulative:
        if count >= wanted:
            inside = (wanted - below) / (count - below) if count > below else 0.0
            return low if bound == float("inf") else round(low + (bound - low) * inside, 3)
        low, below = bound, count
    return low
