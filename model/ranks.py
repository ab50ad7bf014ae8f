"""Ranks: processes that learn one model together, each with a share of what is dear.

All ranks hold the same model and the same tables, are told the same micro-batches and draw the same
random numbers. Of a step each rank takes the losses of its share of the examples, against all
candidates; the gradients that they give, of dense weights and of rows, are added up, so that every
rank then takes the same step. Codebooks move by the candidates, which all have; where they add in
any order the leader's sums count. One rank alone has all, and is asked for nothing.

Collectives are torch's: gloo for what a CPU holds, gloo or NCCL for what a GPU holds. What is added
up is the same on all ranks, bit for bit, and on a CPU in every run again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

PATIENCE = timedelta(days=1)
"""How long one waits for another that lives: it may write a large handover, or wait for a disk.
Who dies is noticed at once, by whoever started it and by who waits for it."""


class Share(NamedTuple):
    """What one rank takes of something that all ranks know.

    Attributes:
        first, end: of the entries, half open; at least one, if there are any.
        total: entries of all ranks.
        weight: part of a mean over all entries that belongs to the mean over the own ones. Where
            there are fewer entries than ranks, some have one that counts nothing.
        ranks: how many share.
    """

    first: int
    end: int
    total: int
    weight: float = 1.0
    ranks: int = 1

    def of(self, x_B: Tensor) -> Tensor:
        """The own entries of what has one for each."""
        return x_B if self.ranks == 1 else x_B[self.first : self.end]


def _put(tensors: Sequence[Tensor], flat_X: Tensor) -> None:
    """Give each tensor its part of the values of all."""
    parts = flat_X.split([x.numel() for x in tensors])
    with torch.no_grad():
        for x, part_x in zip(tensors, parts, strict=True):
            x.copy_(part_x.view_as(x))


class Ranks:
    """This process among those that learn together; by default it is alone.

    Args:
        rank: its number, from 0. Number 0 leads.
        size: how many there are; of more than one, torch's default process group has been made.

    >>> alone = Ranks()
    >>> alone.share(5)
    Share(first=0, end=5, total=5, weight=1.0, ranks=1)
    >>> Ranks(2, 3).share(2)
    Share(first=1, end=2, total=2, weight=0.0, ranks=3)
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def leads(self) -> bool:
        """Whether it is this one that decides, writes and publishes."""
        return self.rank == 0

    def share(self, count: int) -> Share:
        """Which of `count` entries are this rank's: consecutive ones, as many as anybody's."""
        if self.size == 1 or count == 0:
            return Share(0, count, count, ranks=self.size)
        if count < self.size:
            first = min(self.rank, count - 1)
            return Share(first, first + 1, count, (self.rank < count) / count, self.size)
        first, end = (count * r // self.size for r in (self.rank, self.rank + 1))
        return Share(first, end, count, (end - first) / count, self.size)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Put into float32 tensors, in place, the sums of those that each rank gives."""
        if self.size == 1:
            return
        flat_X = torch.cat([x.detach().reshape(-1) for x in tensors])
        dist.all_reduce(flat_X)
        _put(tensors, flat_X)

    def agree(self, tensors: Sequence[Tensor]) -> None:
        """Put into float32 tensors, in place, what the leader has.

        For what all ranks have made of the same, and a device may have rounded in several ways.
        """
        if self.size == 1:
            return
        flat_X = torch.cat([x.detach().reshape(-1) for x in tensors])
        dist.broadcast(flat_X, 0)
        _put(tensors, flat_X)

    def tell(self, message: bytes | None) -> bytes:
        """What the leader says to all; it gives the message, the others None."""
        length = torch.tensor([len(message or b"")])
        dist.broadcast(length, 0)
        text = torch.empty(int(length), dtype=torch.uint8)
        if message:
            text = torch.frombuffer(bytearray(message), dtype=torch.uint8)
        if len(text):
            dist.broadcast(text, 0)
        return message if message is not None else text.numpy().tobytes()

    def collect(self, message: bytes) -> list[bytes]:
        """What each rank says, by rank, on the leader; nothing on the others."""
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(message)]))
        longest = max(map(int, lengths))
        text = torch.zeros(longest, dtype=torch.uint8)
        text[: len(message)] = torch.frombuffer(bytearray(message or b"\0"), dtype=torch.uint8)[
            : len(message)
        ]
        texts = [torch.empty_like(text) for _ in range(self.size)] if self.leads else None
        if longest:
            dist.gather(text, texts, 0)
        return [
            one[: int(length)].numpy().tobytes()
            for one, length in zip(texts or (), lengths, strict=False)
        ]


ALONE = Ranks()


@dataclass(frozen=True)
class Place:
    """Where a process stands in its group.

    Attributes:
        rank, size: as in `Ranks`.
        number: of the rank on its machine, from 0.
        of_machine: how many ranks this machine has.
        meeting: where the ranks meet, as an `init_method` of torch: a file of their own, or "env://".
    """

    rank: int = 0
    size: int = 1
    number: int = 0
    of_machine: int = 1
    meeting: str = ""


HERE = Place()


def place_by_torchrun() -> Place | None:
    """What torchrun says of this process; None where it did not start it.

    Raises:
        ValueError: if what it says is no number.
    """
    said = [os.environ.get(n) for n in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")]
    if "TORCHELASTIC_RUN_ID" not in os.environ or None in said:
        return None
    rank, size, number, of_machine = (int(one or "") for one in said)
    return Place(rank, size, number, of_machine, "env://")


@contextmanager
def joined(place: Place, device: str = "cpu", collectives: str = "auto") -> Iterator[Ranks]:
    """The ranks of a group, once all of them are here; who is alone waits for nobody.

    Args:
        place: of this process.
        device: that it learns on.
        collectives: by what is added up that a GPU holds: "gloo", "nccl", or "auto" for NCCL where
            each rank has a GPU of its own.

    Raises:
        ValueError: for NCCL without a GPU.
    """
    if place.size == 1:
        yield ALONE
        return
    on_gpu = device.startswith("cuda")
    if collectives == "auto":
        own = on_gpu and torch.cuda.device_count() >= place.of_machine
        collectives = "nccl" if own else "gloo"
    if collectives == "nccl" and not on_gpu:
        raise ValueError(
            f"trainer.collectives is 'nccl', but rank {place.rank} learns on {device!r}; use 'gloo'"
        )
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group(
        f"cpu:gloo,cuda:{collectives}",
        init_method=place.meeting,
        rank=place.rank,
        world_size=place.size,
        timeout=PATIENCE,
    )
    try:
        yield Ranks(place.rank, place.size)
    finally:
        dist.destroy_process_group()
