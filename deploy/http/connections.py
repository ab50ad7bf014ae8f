"""What a server takes from its clients, and how many of them its descriptors have room for.

The process's own files come first: the limit of descriptors is raised as far as the system lets
us, and the connections are at most what is left after `OWN_DESCRIPTORS`.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass

OWN_DESCRIPTORS = 256
"""Files, threads' pipes, and connections to Kafka and the registry."""
ENOUGH_DESCRIPTORS = 65_536


@dataclass(frozen=True)
class Limits:
    """What a server takes from its clients.

    Attributes:
        connections: held at the same time.
        head_bytes: of a request's line and headers.
        head_seconds: for a request's line and headers, from the connection on or from the answer
            before.
        body_seconds: time over which a body's rate is measured.
        write_seconds: without progress, for a client that does not read its answer.
    """

    connections: int = 1000
    head_bytes: int = 32_768
    head_seconds: float = 10.0
    body_seconds: float = 10.0
    write_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"service.limits.{name} is {value}: use more than 0")


def raise_descriptors() -> int:
    """Let this process open as many files as the system allows; returns how many those are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = ENOUGH_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, ENOUGH_DESCRIPTORS)
    if most > soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return ENOUGH_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def most_connections(wanted: int, descriptors: int) -> int:
    """How many of the `wanted` connections so many descriptors have room for.

    >>> most_connections(1000, 65_536), most_connections(1000, 1024), most_connections(1000, 256)
    (1000, 768, 64)
    """
    return min(wanted, max(descriptors - OWN_DESCRIPTORS, descriptors // 4))
