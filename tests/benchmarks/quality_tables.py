"""Tables of docs/RESULTS.md from the reports of `tests.benchmarks.quality`."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from deploy.studies.studies import INTERVALS
from deploy.studies.tables import (
    Summary,
    against,
    cell,
    markdown,
    metric_table,
    number,
    percent,
    summary,
)
from indexer.evaluation.ablations import NAMES as CONTROLS
from indexer.evaluation.serving_variants import RESERVES
from model.peers.factory import PEERS

SPARC = "sparc"
FROZEN = "frozen_codebook"
MULTI_INTEREST = ("comirec", "comirec_content", "mind")
BAD = -0.25
"""Relative loss of Recall@50 from which a control counts as bad."""
HR = tuple(f"{name}@{k}" for name in ("hr", "ndcg") for k in (5, 10, 20, 50))
PLACE = re.compile(r"(<!-- table: ([a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Reports = dict[str, list[dict[str, Any]]]
"""Model -> its reports by seed, ascending."""


def render(out: Path, datasets: list[str]) -> dict[str, str]:
    """Every table that the reports allow, by name (`beauty-models`, `beauty-controls`, ...)."""
    tables = {}
    for dataset in datasets:
        reports = read(out / dataset, "report.json")
        mine = {name: runs for name, runs in reports.items() if name in PEERS or name == SPARC}
        if mine:
            tables[f"{dataset}-models"] = models(mine)
        if SPARC in mine:
            sparc = mine[SPARC][0]
            tables[f"{dataset}-targets"] = targets(out / dataset, mine)
            tables[f"{dataset}-trade-off"] = trade_off(sparc)
            tables[f"{dataset}-exploration"] = exploration(sparc)
            tables[f"{dataset}-reserve"] = reserve(mine)
            tables[f"{dataset}-codebook"] = codebook(mine[SPARC])
            if FROZEN in reports:
                tables[f"{dataset}-frozen"] = frozen(mine[SPARC], reports[FROZEN])
        for study, names in (("controls", CONTROLS), ("intervals", {n: n for n in INTERVALS})):
            path = out / dataset / f"{study}.json"
            if path.is_file():
                tables[f"{dataset}-{study}"] = _study(json.loads(path.read_text()), names)
        loo = read(out / dataset / "loo", "leave_one_out.json")
        if loo:
            tables[f"{dataset}-loo"] = leave_one_out(loo)
    return tables


def fill(document: Path, tables: dict[str, str]) -> int:
    """Put the tables into their places in a document; returns how many had one."""
    if not document.is_file():
        return 0
    filled = 0

    def put(match: re.Match[str]) -> str:
        nonlocal filled
        name = match.group(2)
        if name not in tables:
            return match.group(0)
        filled += 1
        return f"{match.group(1)}{tables[name]}\n{match.group(3)}"

    document.write_text(PLACE.sub(put, document.read_text(encoding="utf-8")), encoding="utf-8")
    return filled


def read(directory: Path, file: str) -> Reports:
    """Reports by model, those of one model by seed."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(directory.glob(f"seed-*/*/{file}")):
        found[path.parent.name].append(json.loads(path.read_text(encoding="utf-8")))
    return {n: sorted(runs, key=lambda run: run["seed"]) for n, runs in found.items()}


def models(reports: Reports) -> str:
    """SPARC and peers by Recall@50, with seeds and minutes."""
    named = {n: summary([run["metrics"] for run in runs]) for n, runs in reports.items()}
    order = sorted(named, key=lambda n: named[n]["recall@50"]["mean"])
    rows = {}
    for name in order:
        runs = reports[name]
        minutes = max(map(_minutes, runs))
        seeds = f", {len(runs)} seeds" if len(runs) > 1 else ""
        rows[f"{name} ({minutes:.0f} min{seeds})"] = named[name]
    return metric_table(rows)


def targets(place: Path, reports: Reports) -> str:
    """What the issue asks for, what was measured, and whether that is enough."""
    named = {n: summary([run["metrics"] for run in runs]) for n, runs in reports.items()}
    mine = named.pop(SPARC)
    interests = {n: s for n, s in named.items() if n in MULTI_INTEREST}
    rows = []

    def better(metric: str, label: str, others: dict[str, Summary], least: float) -> None:
        known = {n: s[metric]["mean"] for n, s in others.items() if metric in s}
        if not known or metric not in mine:
            return
        best = max(known, key=lambda n: known[n])
        value = mine[metric]["mean"]
        change = value / known[best] - 1 if known[best] else float("inf")
        goal = f"{percent(least)} over {best} ({number(known[best])})"
        rows.append(
            [label, goal, f"{cell(mine[metric])} ({percent(change)})", _yes(change >= least)]
        )

    better("recall@50", "Recall@50", named, 0.05)
    better("ndcg@50", "NDCG@50", named, 0.05)
    for metric, label, least in (
        ("long_tail_recall@50", "long-tail Recall@50", 0.24),
        ("cold_user_ndcg@50", "cold-user NDCG@50", 0.12),
    ):
        better(metric, f"{label}, multi-interest", interests, least)
        better(metric, f"{label}, all", named, 0.05)
    better("cold_item_recall@50", "cold-item Recall@50", named, 0.0)
    if interests:
        rival = max(interests, key=lambda n: interests[n]["recall@50"]["mean"])
        better("coverage@50", "Coverage@50, as served", {rival: interests[rival]}, 0.0)
        better("ild@50", "ILD@50, as served", {rival: interests[rival]}, 0.0)
        rows += _at_accuracy(reports[SPARC], rival, interests[rival])
    runs = reports[SPARC]
    kept = sum(run["retrieval"]["kept"] for run in runs) / len(runs)
    share = sum(run["retrieval"]["share_scored"] for run in runs) / len(runs)
    rows.append(
        ["retrieval", "97 % of the exhaustive Recall@50, 20 % of the catalogue scored",
         f"{_percentage(kept)}, {_percentage(share)}", _yes(kept >= 0.97 and share <= 0.20)]
    )  # fmt: skip
    top = _control(place, "hard_top_1")
    if top and _seeds(top) == len(runs):
        rows.append(_change("soft search over hard top-1", mine, top))
        lists = summary([figures for run in runs if (figures := _lists_alone(run))])
        if lists and _seeds(lists) == len(runs):
            rows.append(_change("soft search, lists alone, over hard top-1", lists, top))
    fixed = _control(place, FROZEN)
    if fixed and _seeds(fixed) == len(runs):
        rows.append(_change("joint training over frozen codebook", mine, fixed))
    stale, never = _control(place, "stale_consumer"), _control(place, "published_never")
    if stale and never and _seeds(stale) == len(runs):
        change = against(mine, stale)["mean"]
        beside = percent(against(never, stale)["mean"])
        text = f"{percent(change)} against SPARC, {beside} against everything stale"
        rows.append(["stale consumer", f"bad: {percent(BAD)} or less", text, _yes(change <= BAD)])
    minutes = max(map(_minutes, runs))
    label = "wall time of a run, without the other ways asked beside it"
    rows.append([label, "40 min", f"{minutes:.0f} min", _yes(minutes <= 40)])
    return markdown(["what", "asked for", "measured", "met"], rows)


def _at_accuracy(runs: list[dict[str, Any]], rival: str, peer: Summary) -> list[list[str]]:
    """Coverage and ILD of the largest reserve that leaves SPARC at least the peer's Recall@50."""
    for name in reversed(RESERVES):
        knob = summary(
            [run["ways"][name]["metrics"] for run in runs if name in run.get("ways", {})]
        )
        if not knob or knob["recall@50"]["mean"] < peer["recall@50"]["mean"]:
            continue
        share, recall = f"{100 * RESERVES[name]:.0f} %", cell(knob["recall@50"])
        return [
            [
                f"{label}, at that accuracy ({share} reserved: R@50 {recall})",
                f"at least {rival}'s {number(peer[metric]['mean'])}",
                cell(knob[metric]),
                _yes(knob[metric]["mean"] >= peer[metric]["mean"]),
            ]
            for metric, label in (("coverage@50", "Coverage@50"), ("ild@50", "ILD@50"))
        ]
    return []


def reserve(reports: Reports) -> str:
    """SPARC with growing shares of reserved places, beside the multi-interest peers."""
    runs = reports[SPARC]
    named = {"SPARC, 2 % reserved (served)": summary([run["metrics"] for run in runs])}
    shares = {"no_reserve": 0.0, **RESERVES}
    for name, share in shares.items():
        found = [run["ways"][name]["metrics"] for run in runs if name in run.get("ways", {})]
        if found:
            named[f"SPARC, {100 * share:.0f} % reserved"] = summary(found)
    for name in MULTI_INTEREST:
        if name in reports:
            named[name] = summary([run["metrics"] for run in reports[name]])
    return metric_table(named)


def _change(label: str, mine: Summary, control: Summary) -> list[str]:
    """A row: how much better than the control, seed by seed."""
    change = against(control, mine)["mean"]
    return [label, "better", percent(change), _yes(change is not None and change > 0)]


def _minutes(run: dict[str, Any]) -> float:
    """Wall time of what a model needs to learn and to answer."""
    observing: float = run.get("seconds", {}).get("observe", 0.0)
    return float(run["wall_seconds"] - observing) / 60


def _lists_alone(run: dict[str, Any]) -> dict[str, Any] | None:
    """What the lists of the served number of codes find alone."""
    for row in run.get("trade_off", ()):
        if row["codes"] == run["retrieval"]["codes"]:
            found: dict[str, Any] | None = row.get("lists_alone")
            return found
    return None


def _control(place: Path, name: str) -> Summary | None:
    path = place / "controls.json"
    if not path.is_file():
        return None
    found: Summary | None = json.loads(path.read_text(encoding="utf-8"))["metrics"].get(name)
    return found


def _seeds(values: Summary) -> int:
    return len(values["recall@50"]["values"])


def _yes(met: bool) -> str:
    return "yes" if met else "**no**"


def trade_off(report: dict[str, Any]) -> str:
    """Quality against the number of codes searched, and what the lists find alone."""
    rows = []
    for row in report["trade_off"]:
        served = " (served)" if row["codes"] == report["retrieval"]["codes"] else ""
        rows.append([f"{row['codes']}{served}", *_cost(row), *_cost(row.get("lists_alone"))])
    head = ["scored", "R@50", "N@50", "R@50 kept"]
    return markdown(["codes", *head, *(f"lists alone: {name}" for name in head)], rows)


def frozen(runs: list[dict[str, Any]], frozen_runs: list[dict[str, Any]]) -> str:
    """The codebook that learns on against the one of the warm-up, by codes searched."""
    fixed = {run["seed"]: run["trade_off"] for run in frozen_runs}
    pairs = [(run["trade_off"], fixed[run["seed"]]) for run in runs if run["seed"] in fixed]
    kinds = ("lists alone", "with evidence")
    rows = []
    for at, row in enumerate(pairs[0][0]) if pairs else ():
        cells = [str(row["codes"])]
        for kind in kinds:
            joint = summary([_found(mine[at], kind) for mine, _ in pairs])
            other = summary([_found(theirs[at], kind) for _, theirs in pairs])
            for side in (joint, other):
                share = _percentage(side["share_scored"]["mean"])
                cells.append(f"{cell(side['recall@50'])} ({share})")
            cells.append(percent(against(other, joint)["mean"]))
        rows.append(cells)
    sides = ("joint (scored)", "frozen (scored)", "change")
    return markdown(["codes", *(f"{kind}: {side}" for kind in kinds for side in sides)], rows)


def _found(row: dict[str, Any], kind: str) -> dict[str, float]:
    figures = row["lists_alone"] if kind == "lists alone" else row
    return {name: figures[name] for name in ("share_scored", "recall@50")}


def _percentage(share: float) -> str:
    return f"{100 * share:.1f} %"


def _cost(row: dict[str, Any] | None) -> list[str]:
    if row is None:
        return ["-"] * 4
    kept = "-" if row["kept"] is None else _percentage(row["kept"])
    found = [number(row[metric]) for metric in ("recall@50", "ndcg@50")]
    return [_percentage(row["share_scored"]), *found, kept]


def exploration(report: dict[str, Any]) -> str:
    """Known against explored codes."""
    rows = []
    for kind in ("known", "explored"):
        part = report["exploration"][kind]
        rows.append(
            [kind, f"{part['codes']:.1f}", f"{part['codes_searched']:.1f}",
             number(part["probability"]), number(part["share_of_targets"]),
             number(part["share_of_answers"]), number(part["recall@50"] or 0.0),
             f"{1000 * (part['hits_per_item'] or 0):.2f}"]
        )  # fmt: skip
    return markdown(
        ["codes", "of a user", "searched", "p promised", "share of targets", "share of answers",
         "R@50 of its targets", "hits per 1,000 items"],
        rows,
    )  # fmt: skip


def codebook(runs: list[dict[str, Any]]) -> str:
    """Health, drift and churn, mean of the days."""
    values = summary([run["codebook"]["means"] for run in runs])
    return markdown(["", "mean of the days"], [[n, cell(v)] for n, v in values.items()])


def leave_one_out(reports: Reports) -> str:
    """HR and NDCG over all items; SPARC's soft search on its own row."""
    named = {n: [run["test"] for run in runs] for n, runs in reports.items()}
    if SPARC in reports:
        named[f"{SPARC}, soft search"] = [run["soft_search"] for run in reports[SPARC]]
    rows = []
    for name, runs in sorted(named.items(), key=lambda pair: pair[1][0]["hr@10"]):
        values = summary(runs)
        rows.append([name, *(cell(values[metric], 4) for metric in HR)])
    return markdown(["model", *(metric.upper() for metric in HR)], rows)


def _study(result: dict[str, Any], names: dict[str, str]) -> str:
    rows = {}
    for name, label in names.items():
        if name in result["metrics"]:
            change = result["change"].get(name)
            text = f" {percent(change['recall@50']['mean'])}" if change else ""
            rows[f"{label}{text}"] = result["metrics"][name]
    return metric_table(rows, "change of R@50")
