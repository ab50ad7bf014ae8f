"""Settings of older versions: what they are called now, or why they are gone.

Who still writes one is told so. What `sparc up` itself wrote into a data directory is brought up to
date instead: it wrote out every setting, and nobody chose those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.artifacts.former_settings import CONSTANT, WITHOUT_EFFECT, without_constants

RENAMED: dict[str, str] = {
    "evaluation.rehearsals": "evaluation.replay_epochs",
    "trainer.hurry_from": "trainer.catch_up_from",
}
"""Names of today by former ones: `{"trainer.old": "trainer.new"}`."""

REMOVED: dict[str, str] = {
    "flink.job_manager_heap_mb": "it is 256 MiB, as the JobManager holds no state",
    "replay.watermark_delay_ms": "it follows streaming.out_of_orderness_ms",
    "service.torch_threads": "each query has one, and service.workers use further cores",
    "service.judge.confidence": "it is 0.95",
    "service.judge.remembered": "it is 4,096, four times what a verdict asks",
    "indexer.items_wait_s": "a handover waits 30 s for its items, always",
    "indexer.drift_rebuilds": "indexer.rebuild_rows bounds the rows of lists that are written anew",
    "indexer.vector_tolerance": "the trainer says which items have moved, and these move",
    **{name: f"it is {value}, always" for name, value in CONSTANT.items()},
    **WITHOUT_EFFECT,
}
"""Why there is none any more, by former name: `{"trainer.old": "it is always 5 now"}`."""


def refuse_former(values: Mapping[str, Any]) -> None:
    """Refuse settings of older versions, all at once: a whole file may be of one.

    Raises:
        ValueError: with the name of today of each, or the reason why it is gone.
    """
    told = REMOVED | {name: f"it is {now} now" for name, now in RENAMED.items()}
    found = [f"{name} ({told[name]})" for name in told if _is_in(values, name)]
    if found:
        raise ValueError(f"there is no setting {', '.join(found)} any more")


def up_to_date(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that an older version wrote, under the names of today and without what is gone.

    Raises:
        ValueError: as `without_constants`.

    >>> RENAMED["kafka.old"] = "kafka.new"
    >>> up_to_date({"kafka": {"old": 5, "prefix": ""}})
    {'kafka': {'prefix': '', 'new': 5}}
    >>> del RENAMED["kafka.old"]
    """
    found = without_constants(values)
    for name in (*RENAMED, *REMOVED):
        section, last = _place(found, name)
        if last in section:
            value = section.pop(last)
            if name in RENAMED:
                place, last = _place(found, RENAMED[name])
                place.setdefault(last, value)
    return found


def _place(values: Any, name: str) -> tuple[Any, str]:
    """The section that a setting stands in, empty where there is none, and its last name."""
    *sections, last = name.split(".")
    for section in sections:
        values = values.get(section) if isinstance(values, Mapping) else None
    return (values if isinstance(values, Mapping) else {}), last


def _is_in(values: Mapping[str, Any], name: str) -> bool:
    section, last = _place(values, name)
    return last in section
