"""One run: a model through the prequential protocol, into a directory of its own.

    DIR/predictions.parquet   the served answer to every query
    DIR/ways/NAME.parquet     those of the other ways that were asked
    DIR/report.json           metrics, curves, cost, exploration, codebook, settings, machine, time

`report.json` is written last, so where it stands the run is complete; its entry `run` says what
was played, and a run that is to be played again with the same entry can be skipped.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog

from deploy.settings import Settings
from deploy.studies import machine_facts
from indexer.evaluation.observation import Observation
from indexer.evaluation.online_sparc import OnlineSparc, OnlineSparcConfig
from indexer.evaluation.serving_variants import (
    RESERVES,
    PublishedEvery,
    PublishedWhole,
    Way,
    interval_ways,
    search_ways,
    stale_ways,
)
from model.artifacts.former_settings import without_constants
from model.evaluation import metrics, predictions, protocol, runner, weekly_curves
from model.evaluation.predictions import Predictions
from model.evaluation.protocol import EventLog
from model.peers.factory import PEERS, build
from streaming.items import Item

logger = structlog.get_logger(__name__)

SPARC = "sparc"
NAMES = (SPARC, *sorted(PEERS))
REPORT = "report.json"
WAYS = "ways"

MakeSparc = Callable[..., OnlineSparc]
"""(items, config, indexer, search, device) -> SPARC or one of its variants."""


@dataclass(frozen=True)
class Data:
    """A log, its catalogue, and what to say of them.

    Attributes:
        log: events and split.
        items: the catalogue, ascending by id.
        facts: names and digests of the files, and how the log was cut.
    """

    log: EventLog
    items: list[Item]
    facts: dict[str, Any]


def read(events: Path, items: Path, until: str | None = None, tail: bool = False) -> Data:
    """Read a log as the protocol wants it.

    Args:
        events: columns user_id, item_id, time.
        items: columns item_id and, where known, category, title.
        until: last day that is looked at, YYYY-MM-DD; the warm-up stays that of the whole log.
        tail: play inside the warm-up instead, to choose settings.

    Raises:
        ProtocolError: names the file and the line, or says why the log cannot be played.
        OSError: a file cannot be read.
    """
    log, known = protocol.split(protocol.read_events(events)), protocol.read_items(items)
    listed = protocol.with_unlisted(log.events, known)
    if unlisted := len(listed) - len(known):
        logger.warning("clicked items that the catalogue does not hold", items=unlisted)
    if tail:
        log = log.tail_of_warm_up()
    if until is not None:
        log = log.until(runner.day_of(until))
    protocol.check_log(log, listed)
    if not (log.events.days_E > log.warm_up_day).any():
        raise protocol.ProtocolError(
            f"there is nothing to answer: the warm-up lasts to {runner.iso_day(log.warm_up_day)}, "
            "and no event is later; give a later day with --until, or a longer log"
        )
    facts: dict[str, Any] = {
        "events": machine_facts.file_facts(events),
        "items": machine_facts.file_facts(items),
        "until": until,
        "tail_of_warm_up": tail,
    }
    if unlisted:
        facts["unlisted_items"] = unlisted
    return Data(log, listed, facts)


def planned(
    name: str, data: Data, settings: Settings, seed: int, ways: Sequence[str] = ()
) -> dict[str, Any]:
    """What decides the outcome of a run, as plain JSON values."""
    plan: dict[str, Any] = {"name": name, "seed": seed, "data": data.facts}
    if name not in PEERS:
        plan |= {
            "learner": dataclasses.asdict(sparc_config(settings, seed).learner),
            "batch_size": settings.trainer_config().batch_size,
            "threads": settings.trainer_config().threads,
            "replay": settings.evaluation.replay,
            "replay_epochs": settings.evaluation.replay_epochs,
            "search": dataclasses.asdict(settings.search),
            "ways": sorted(ways),
        }
    plain: dict[str, Any] = orjson.loads(orjson.dumps(plan))
    return plain


def finished(directory: Path, plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """The report of a run that was played to its end with the same plan, else None.

    More ways than planned may have been asked.
    """
    try:
        report: dict[str, Any] = orjson.loads((directory / REPORT).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    played = recorded_plan(report)
    if played is None or not set(plan.get("ways", ())) <= set(played.get("ways", ())):
        return None
    return report if {**played, "ways": None} == {**plan, "ways": None} else None


def recorded_plan(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The plan of a report, without what is a constant now; None where nothing can be like it."""
    played = report.get("run")
    try:
        return without_constants(played) if isinstance(played, dict) else None
    except ValueError:  # of a model that this version does not make
        return None


def sparc_config(settings: Settings, seed: int) -> OnlineSparcConfig:
    """SPARC's settings for a seed."""
    return OnlineSparcConfig(
        learner=dataclasses.replace(settings.learner_config(), seed=seed),
        batch_size=settings.trainer_config().batch_size,
        replay=settings.evaluation.replay,
        replay_epochs=settings.evaluation.replay_epochs,
    )


def all_ways(model: OnlineSparc, settings: Settings) -> dict[str, Way]:
    """Every other way of answering, for the controls and the publish intervals."""
    return (
        search_ways(settings.search)
        | stale_ways(model.retrieval_model, model.publisher)
        | interval_ways()
        | {"published_whole": PublishedWhole(model.learner, model.retrieval_model, model.publisher)}
    )


ALL_WAYS = (
    "hard_top_1",
    "no_reserve",
    *RESERVES,
    "equal_quota",
    "stale_consumer",
    "stale_towers",
    "published_weekly",
    "published_monthly",
    "published_never",
    "published_whole",
)


def play(
    name: str,
    data: Data,
    settings: Settings,
    out: Path,
    *,
    seed: int = 0,
    device: str = "cpu",
    ways: Sequence[str] = (),
    make: MakeSparc = OnlineSparc,
    again: bool = False,
) -> tuple[dict[str, Any], bool]:
    """Play a model through the protocol and write what came of it.

    Args:
        name: "sparc", a peer's name, or the name of a variant of SPARC that `make` makes.
        data: what to play.
        settings: `[learner]`, `[trainer]`, `[search]`, `[indexer]` and `[evaluation]` apply.
        out: the run's directory.
        seed: of all randomness.
        device: "cpu" or "cuda".
        ways: names of `ALL_WAYS` that are asked, too.
        make: makes SPARC.
        again: play also what is there already.

    Returns:
        The report, and whether the run was played now.

    Raises:
        ProtocolError: the log cannot be played, or an answer breaks the protocol.
        OSError: the directory cannot be written.
    """
    plan = planned(name, data, settings, seed, ways)
    if not again and (there := finished(out, plan)):
        logger.info("there already", model=name, seed=seed)
        return there, False
    started, worked = time.perf_counter(), time.process_time()
    with machine_facts.computing(settings.trainer_config().threads):
        report: dict[str, Any] = {
            "name": name,
            "seed": seed,
            "run": plan,
            "machine": machine_facts.machine(device),
            "versions": machine_facts.versions(),
        }
        if name in PEERS:
            peer = build(name, data.items, seed, device)
            result = runner.run(data.log, data.items, peer, watch=runner.log_progress(name))
            report |= runner.report(data.log, data.items, result, peer)
        else:
            config = sparc_config(settings, seed)
            sparc = make(data.items, config, settings.indexer, settings.search, device)
            asked = {n: way for n, way in all_ways(sparc, settings).items() if n in ways}
            result, found = _play_sparc(name, sparc, data, settings, asked, out)
            report |= found
    report["peak_memory_gib"] = machine_facts.peak_memory_gib()
    report["cpu_seconds"] = round(time.process_time() - worked, 3)
    report["wall_seconds"] = round(time.perf_counter() - started, 3)
    runner.write(out, result, report)
    return report, True


def _play_sparc(
    name: str,
    sparc: OnlineSparc,
    data: Data,
    settings: Settings,
    ways: Mapping[str, Way],
    out: Path,
) -> tuple[runner.Run, dict[str, Any]]:
    """Play SPARC, asking the other ways; writes their answers."""
    codes = sorted({*settings.evaluation.trade_off, settings.search.codes})
    observation = Observation(sparc, data.items, ways, codes, settings.indexer.drift_threshold)
    progress = runner.log_progress(name)

    def watch(day: protocol.Day, answers: runner.Answers) -> None:
        observation(day, answers)
        progress(day, answers)

    result = runner.run(data.log, data.items, sparc, watch=watch)
    report = runner.report(data.log, data.items, result, sparc)
    report |= observation.report(result.predictions)
    report["seconds"]["observe"] = round(observation.seconds, 3)
    report["ways"] = {}
    for way, answers in observation.other_answers().items():
        report["ways"][way] = judge(data, answers)
        asked = ways[way]
        if isinstance(asked, PublishedEvery):
            report["ways"][way]["versions"] = asked.versions
        (out / WAYS).mkdir(parents=True, exist_ok=True)
        predictions.write(out / WAYS / f"{way}.parquet", answers)
    return result, report


def judge(data: Data, answers: Predictions) -> dict[str, Any]:
    """Metrics and weekly Recall@50 of another way's answers."""
    weekly = weekly_curves.weekly(data.log.events, data.items, answers)
    return {
        "metrics": metrics.report(data.log.events, data.items, answers),
        "weekly": {name: weekly[name] for name in ("recall@50",) if name in weekly},
    }
