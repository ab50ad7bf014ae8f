"""What every peer computes: duplicates out, and each click with the last 50 before it.

None of them orders by event time or sets late clicks aside, as ours does; their state is one object
per user, with as many event ids remembered as the benchmark says.
"""

from __future__ import annotations

from typing import Any

import orjson

HISTORY = 50


def fresh() -> dict[str, Any]:
    """The state of a user who has not clicked."""
    return {"position": 0, "items": [], "times": [], "seen": []}


def step(state: dict[str, Any], click: dict[str, Any], remembered: int) -> bytes | None:
    """Take one click in; the sequence, or None for a duplicate."""
    event = click["event_id"]
    if event in state["seen"]:
        return None
    state["seen"] = [*state["seen"][-(remembered - 1) :], event] if remembered > 1 else [event]
    state["position"] += 1
    sequence = orjson.dumps(
        {
            "event_id": event,
            "user_id": click["user_id"],
            "event_time": click["event_time"],
            "position": state["position"],
            "history_items": state["items"],
            "history_times": state["times"],
            "target": click["item_id"],
        }
    )
    state["items"] = [*state["items"][-(HISTORY - 1) :], click["item_id"]]
    state["times"] = [*state["times"][-(HISTORY - 1) :], click["event_time"]]
    return sequence


def parse(value: bytes | None) -> dict[str, Any] | None:
    """The click; None for poison, which peers drop, and heartbeats."""
    try:
        click = orjson.loads(value or b"")
        if type(click["user_id"]) is int and type(click["item_id"]) is int:
            return click if click["event_type"] != "heartbeat" else None
    except (ValueError, KeyError, TypeError):
        pass
    return None
