"""The log of a data directory: `sparc up` goes on with it, and refuses another one at once."""

from __future__ import annotations

import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from deploy import settings as configuration
from deploy.settings import Settings
from replay.begun_log import clicks_sent
from replay.config import ReplayConfig
from replay.datasets import find_dataset
from replay.staging import stage


class KnownLogError(ValueError):
    """The data directory holds another log; the message says which, and what to do."""


NOTHING: Mapping[str, Any] = MappingProxyType({})
"""What is known where nothing was begun."""
LOG = ("events", "items", "dataset", "strict", "synthetic")
PACE = ("rate", "speedup")


def known_log(data_dir: Path) -> Mapping[str, Any]:
    """The log that the pipeline of a data directory was last started with, and its pace.

    Empty where none was. The section `[replay]` of the configuration that was written there says.
    """
    path = data_dir / configuration.CONFIG
    try:
        section = tomllib.loads(path.read_text(encoding="utf-8")).get("replay", {})
    except (OSError, ValueError):
        return NOTHING
    return {name: section[name] for name in (*LOG, *PACE) if section.get(name)}


def go_on_with(
    known: Mapping[str, Any], section: dict[str, Any], named: ReplayConfig
) -> dict[str, Any]:
    """What the command line says of the log, completed by what is known where it names none.

    Args:
        known: of the data directory, see `known_log`.
        section: of the command line.
        named: what configuration file and variables say.
    """
    if "events" in section or "dataset" in section or named.events or named.dataset:
        return section
    said = set(section)
    if named.synthetic != ReplayConfig().synthetic:
        said.add("synthetic")
    if any(getattr(named, name) or name in section for name in PACE):
        said |= set(PACE)
    if "items" in section:
        said.add("dataset")  # a catalogue alone is refused as one
    return {name: value for name, value in known.items() if name not in said} | section


def check_log(settings: Settings, known: Mapping[str, Any]) -> None:
    """Stage the log before anything is started, so that a bad file is refused at once.

    Raises:
        ReplayError: naming the file, the line and the remedy, or similar datasets; also if the
            data directory holds another log.
        KnownLogError: if it holds another dataset.
    """
    replay = settings.replay
    begun = clicks_sent(settings.data_dir / "replay") is not None
    if replay.dataset and begun and replay.dataset != known.get("dataset"):
        log = known.get("dataset") or known.get("events") or "the synthetic one"
        raise KnownLogError(
            f"{settings.data_dir} holds another log than {replay.dataset}: {log}; go on with that "
            "one (leave out --dataset), begin anew with --fresh, or choose another --data-dir"
        )
    if replay.events is not None:
        log = stage(
            replay.events,
            replay.items,
            settings.data_dir,
            time.time_ns() // 1_000_000,
            strict=replay.strict,
            memory_mb=replay.sort_memory_mb,
        )
        for note in log.notes:
            print(note, file=sys.stderr, flush=True)
    elif replay.dataset:
        find_dataset(replay.dataset)
