"""`sparc compare`: the comparison of two versions, asked of the service or made here, as tables."""

from __future__ import annotations

from typing import Any

import httpx
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from deploy.commands.status import QuestionError, bearer, console
from deploy.release.promotion import resolve
from deploy.settings import Settings

SHOWN_METRICS = (
    "recall_at_50",
    "window_recall_at_50",
    "ndcg_at_50",
    "long_tail_recall_at_50",
    "cold_user_recall_at_50",
    "cold_item_recall_at_50",
    "coverage_at_50",
    "codes_in_use",
    "perplexity",
    "indexed_items",
)


def compared(settings: Settings, a: str, b: str, user: int | None, k: int) -> dict[str, Any]:
    """The comparison as plain values, see `indexer.comparison.versions.compare`.

    Raises:
        SwitchError: for an unknown version.
        SnapshotError: if one is not on disk or damaged.
        QuestionError: if the service refuses, or a user is given and no service runs.
    """
    first, second = (resolve(settings.data_dir, name) for name in (a, b))
    question = {"a": first, "b": second, "k": k} | ({} if user is None else {"user_id": user})
    address = f"http://{settings.service.host}:{settings.ports.service}/v1/compare"
    try:
        answer = httpx.get(address, params=question, timeout=120.0, headers=bearer(settings))
    except httpx.HTTPError as error:
        if user is not None:
            raise QuestionError(f"no service answers at {address} ({error})") from error
        return _on_disk(settings, first, second, k)
    if answer.status_code != 200:
        raise QuestionError(f"{address} answers {answer.status_code}: {answer.text}")
    found: dict[str, Any] = answer.json()
    return found


def _on_disk(settings: Settings, a: int, b: int, k: int) -> dict[str, Any]:
    from indexer.comparison.versions import compare, usual_samples
    from indexer.search.retriever import Retriever

    states = [
        Retriever.of_version(settings.data_dir, version, settings.search) for version in (a, b)
    ]
    return compare(states[0], states[1], [], usual_samples(states[1]), k)


def show(found: dict[str, Any]) -> None:
    """Print a comparison."""
    a, b = (f"version {found[side]['version']}" for side in "ab")
    table = Table("", a, b, "change", box=SIMPLE)
    for name in ("trained_events", "items"):
        before, after = found["a"][name], found["b"][name]
        change = f"{after - before:+,}" if before is not None and after is not None else ""
        table.add_row(name.replace("_", " "), _number(before), _number(after), change)
    by_name = {one["name"]: one for one in found["metrics"]}
    for name in SHOWN_METRICS:
        if (one := by_name.get(name)) is not None:
            both = one["a"] is not None and one["b"] is not None
            change = f"{one['b'] - one['a']:+.4f}" if both else ""
            table.add_row(name, _number(one["a"]), _number(one["b"]), change)
    console.print(table)
    if (paired := found["paired"]) is not None:
        console.print(
            f"on the same {paired['queries']} recent events: recall@50 {paired['recall_a']:.4f} "
            f"and {paired['recall_b']:.4f}, difference {paired['difference']:+.4f} "
            f"[{paired['low']:+.4f}, {paired['high']:+.4f}]",
            highlight=False,
        )
    items = found["items"]
    console.print(
        f"items: {items['new']:,} new, {items['gone']:,} gone, {items['moved']:,} changed code "
        f"({items['moved_share']:.1%})",
        highlight=False,
    )
    codes = Table("code", "movement", "churn", "traffic", "items", box=SIMPLE)
    for one in found["codes"][:6]:
        codes.add_row(
            str(one["code"]),
            f"{one['movement']:.3f}",
            f"{one['churn']:.3f}",
            f"{one['traffic']:.1%}",
            f"{one['items_a']} → {one['items_b']}",
        )
    console.print("codes that moved most", codes)
    for sample in found["samples"]:
        clicked = ", ".join(_name(item) for item in sample["history"]) or "nothing yet"
        console.print(f"somebody who clicked: {escape(clicked)}", highlight=False)
        sides = Table(a, b, box=SIMPLE)
        for left, right in zip(sample["a"], sample["b"], strict=False):
            sides.add_row(escape(_name(left)), escape(_name(right)))
        console.print(sides)


def _name(item: dict[str, Any]) -> str:
    name = item.get("title") or item.get("external_id") or str(item["item_id"])
    return name if len(name) < 48 else f"{name[:46]}…"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}".rstrip("0").rstrip(".")
