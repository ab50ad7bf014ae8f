"""How many operations a GPU would be given, counted on a CPU.

Of a profiler's nested events those count as a launch that have a kernel of their own (torch calls
the others composite: `aten::linear` only calls `aten::addmm`) and do more than make a view or room.
What a kernel calls inside does not count: on a CPU a batched product calls one for each of its
products, and an operation over a list of tensors (`_foreach_*`, fused Adam) one for each tensor,
while a GPU is given one, or a few of a fixed number, as for sorting. So many calls of the host
are therefore near what a GPU is given, and do not depend on where they were counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache

import torch
from torch.profiler import ProfilerActivity, profile

# fmt: off
FREE = frozenset((
    "alias", "as_strided", "detach", "diagonal", "empty", "empty_like", "empty_strided", "expand",
    "lift_fresh", "_local_scalar_dense", "new_empty", "new_empty_strided", "permute", "resize_",
    "select", "set_", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind",
    "unfold", "unsafe_split", "unsqueeze", "_unsafe_view", "view", "_reshape_alias",
    "as_strided_", "unsqueeze_", "squeeze_", "detach_", "transpose_", "t_",
))
# fmt: on
"""Views, and room that nobody has written to; reading a number is counted as a wait."""


def launches(work: Callable[[], object]) -> dict[str, Counter[str]]:
    """What `work` would launch: by stage (`record_function("step: ...")`), by operation."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    found: dict[str, Counter[str]] = {}

    def count(event: object, stage: str) -> None:
        name: str = event.name  # type: ignore[attr-defined]
        if name.startswith("aten::") and not is_composite(name):
            name = name.removeprefix("aten::")
            if name not in FREE:
                found.setdefault(stage, Counter())[name] += 1
            return
        stage = name.removeprefix("step: ") if name.startswith("step: ") else stage
        for child in event.cpu_children:  # type: ignore[attr-defined]
            count(child, stage)

    for event in profiler.events():
        if event.cpu_parent is None:
            count(event, "other")
    return found


@cache
def is_composite(name: str) -> bool:
    """Whether an operation only calls others."""
    packet = getattr(torch.ops.aten, name.removeprefix("aten::"), None)
    overloads = packet.overloads() if packet is not None else []
    full = [name if o == "default" else f"{name}.{o}" for o in overloads]
    known = [one for one in full if torch._C._dispatch_has_kernel(one)]  # others are TorchScript's
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return not known or any(has(one, "CompositeImplicitAutograd") for one in known)
