"""The state of a learner, as it is kept: dense weights, and rows in a base and changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor

Tensors = dict[str, Tensor]


class LearnerState(NamedTuple):
    """What `Learner.restore` needs; tensors are on the CPU.

    Attributes:
        dense: network, optimizer, codebook statistics and random state; the same number of bytes
            whatever the catalogue is.
        rows: of the tables: first all of them, then what changed, in order.
        meta: JSON-able counters.
    """

    dense: Tensors
    rows: Iterable[Tensors]
    meta: dict[str, Any]


def by_group(tensors: Tensors) -> dict[str, Tensors]:
    """Tensors by the first part of their names, and in it by the rest."""
    groups: dict[str, Tensors] = {}
    for name, value in tensors.items():
        group, _, rest = name.partition(".")
        groups.setdefault(group, {})[rest] = value
    return groups
