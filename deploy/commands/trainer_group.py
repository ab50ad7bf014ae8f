"""The trainer's ranks as processes: forked here, or started by torchrun.

`[trainer] workers = R` forks R - 1 followers before anything is opened, so that they share what is
imported, and meets them at a file in a directory of the user's own: nobody else can join, and
nothing listens beyond the loopback. The group lives and dies as one: a follower does not outlive
the leader, and the leader ends at once when a follower does, for whoever keeps the leader alive
(`sparc up`, Compose, Kubernetes) to start it again. Under torchrun that is its agent, which says by
its variables who is who; the ranks then meet where it says.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import structlog

from deploy.commands.console import configure_logging, exit_code_of
from deploy.parent_death import end_with_parent
from model.ranks import HERE, Place, place_by_torchrun
from streaming.temporary import temporary

log = structlog.get_logger(__name__)

STOP_SECONDS = 10.0
"""How long followers may take to end once the leader has."""
LOST = 70
"""Exit code of a leader that lost a follower."""

Work = Callable[[Place], Any]


def run(workers: int, level: str, ready: Callable[[], bool], work: Work) -> None:
    """Do `work` at each place of the group; returns when the leader's is done.

    Args:
        workers: how many there are, unless torchrun says it.
        level: of the log.
        ready: waits until the leader can begin; False: it is to end.
        work: of a rank.

    Raises:
        ValueError: if torchrun and the settings disagree.
    """
    place = place_by_torchrun()
    if place is not None and workers not in (1, place.size):
        raise ValueError(
            f"trainer.workers is {workers}, but torchrun started {place.size}; leave it at 1"
        )
    if place is not None and place.size > 1:
        configure_logging(level, rank=place.rank)
        if place.rank or ready():
            work(place)
    elif workers > 1:
        _lead(workers, level, ready, work)
    elif ready():
        work(HERE)


def _lead(workers: int, level: str, ready: Callable[[], bool], work: Work) -> None:
    if "lo" in (name for _, name in socket.if_nameindex()):
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, "lo")
    fork = multiprocessing.get_context("fork")
    begin, ended = fork.Event(), threading.Event()
    with temporary("trainer-group") as folder:
        meeting = f"file://{folder / 'meeting'}"
        places = [Place(rank, workers, rank, workers, meeting) for rank in range(workers)]
        told = level, begin, work, os.getpid()
        followers = [
            fork.Process(target=_follow, args=(place, *told), name=f"rank {place.rank}")
            for place in places[1:]
        ]
        try:
            for one in followers:
                one.start()
            threading.Thread(target=_watch, args=(followers, ended, folder), daemon=True).start()
            if ready():
                begin.set()
                work(places[0])
                ended.set()
                for one in followers:
                    one.join(STOP_SECONDS)
        finally:
            ended.set()
            for one in followers:
                if one.pid is not None:
                    one.kill()
                    one.join()


def _watch(followers: list[Any], ended: threading.Event, folder: Path) -> None:
    """End this process when a follower has; the kernel then ends the others."""
    gone = wait([one.sentinel for one in followers])
    if ended.is_set():
        return
    for one in followers:
        if one.sentinel in gone:
            one.join(1)  # its exit code comes a moment later
            log.error("a rank ended: the group begins anew", rank=one.name, exit_code=one.exitcode)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(LOST)  # what this one was doing is undone at the next start, as after a crash


def _follow(place: Place, level: str, begin: Any, work: Work, parent: int) -> None:
    """A follower's process: it ends when the leader says so, or is gone."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        return
    configure_logging(level, rank=place.rank)
    begin.wait()
    sys.exit(exit_code_of(lambda: work(place), 1, 1))
