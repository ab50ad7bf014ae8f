"""Which of two ways a step is computed: with little work, or with few operations.

A CPU is quickest with the least arithmetic and what fits its cache: a small product for each code
and block, users taken by the length of their histories, and numbers looked at where they arise. A
GPU waits some microseconds for each operation that is launched, and for all that was launched
before when a number is looked at; there the same is computed in few large operations, padded,
and what the host has to know is read once, at the end of a step. Both ways give the same up to
rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

ALWAYS = False
"""The way of a GPU also on a CPU: for tests, and to count what would be launched."""


def few(device: torch.device) -> bool:
    """Whether operations on this device are to be few."""
    return ALWAYS or device.type != "cpu"


def on(device: torch.device, tensor: Tensor) -> Tensor:
    """What the host made, on the device; a GPU goes on with what it does meanwhile."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
