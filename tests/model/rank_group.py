"""Some ranks as processes of their own, joined by gloo on the loopback."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from model.ranks import Place, joined

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.model.training.group_process"])
PATIENCE_SECONDS = 120


class Killed(Exception):
    """A rank has ended before it had anything to say."""


def _one(place: Place, body: Callable[..., Any], args: Any, end: Any) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    with joined(place) as ranks:
        end.send(body(ranks, *args))


def together(
    folder: Path,
    size: int,
    body: Callable[..., Any],
    *args: Any,
    each: Sequence[Any] = (),
    patience: float = PATIENCE_SECONDS,
) -> list[Any]:
    """What `body(ranks, *args)` gives on each of `size` ranks, by rank.

    Args:
        folder: where the ranks meet.
        size: how many there are.
        body: what each does.
        args: for all.
        each: a further argument, by rank.
        patience: seconds after which those that say nothing hang.

    Raises:
        Killed: if one ends without; the others are then killed, too.
    """
    meeting = f"file://{tempfile.mkdtemp(dir=folder)}/meeting"
    begun = []
    for rank in range(size):
        ours, theirs = SERVER.Pipe(duplex=False)
        place = Place(rank, size, meeting=meeting)
        its = (*args, *each[rank : rank + 1])
        process = SERVER.Process(target=_one, args=(place, body, its, theirs))
        process.start()
        theirs.close()
        begun.append((process, ours))
    found: dict[int, Any] = {}
    try:
        while len(found) < size:
            waiting = [ours for rank, (_, ours) in enumerate(begun) if rank not in found]
            ready = wait(waiting, patience)
            assert ready, "the ranks hang"
            for rank, (_, ours) in enumerate(begun):
                if ours in ready:
                    try:
                        found[rank] = ours.recv()
                    except EOFError:
                        raise Killed(rank) from None
        for process, _ in begun:
            process.join(10)
    finally:
        for process, _ in begun:
            process.kill()
            process.join()
    return [found[rank] for rank in range(size)]
