"""Where the service searches: on a GPU, or where the lists are."""

from __future__ import annotations

import structlog
import torch

from deploy.service.config import ServiceError
from indexer.lists.device_rows import DeviceRows
from indexer.search.config import SearchConfig

log = structlog.get_logger(__name__)


def why_not(search: SearchConfig, workers: int) -> str:
    """Why a service of so many workers cannot search on a GPU, and what to do; empty if it can."""
    if workers > 1:  # not even asked for: a process that has been on a GPU cannot be forked
        return (
            f"[service] workers is {workers}, and each would hold the lists on the GPU: use 1, "
            'which answers many queries at once there, or [search] device = "cpu"'
        )
    if search.quota != "joint":
        return '[search] quota is equal, which is searched on the CPU: use joint, or device = "cpu"'
    if not torch.cuda.is_available():
        return "[search] device is cuda, but torch finds no GPU: use auto or cpu"
    return ""


def search_device(search: SearchConfig, workers: int) -> DeviceRows | None:
    """What holds the lists on a GPU; None where they are searched on the CPU.

    Raises:
        ServiceError: where a GPU is asked for and cannot be used.
    """
    if search.device == "cpu":
        return None
    if reason := why_not(search, workers):
        if search.device == "cuda":
            raise ServiceError(reason)
        return None
    log.info("lists are searched on the GPU", gpu=torch.cuda.get_device_name())
    told = lambda reason: log.warning("searched on the CPU", reason=reason)  # noqa: E731
    return DeviceRows("cuda", search.device_memory_mib << 20, told)
