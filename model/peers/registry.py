"""The peers by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from model.evaluation.protocol import ProtocolError
from model.evaluation.runner import OnlineModel
from model.peers import popularity
from streaming.events import Item

Builder = Callable[[Sequence[Item], int, str], OnlineModel]
"""Catalogue (ascending by id), seed, device -> a fresh model."""

PEERS: dict[str, Builder] = {
    "popularity": lambda items, seed, device: popularity.Popularity(items, popularity.Config()),
}


def build(name: str, items: Sequence[Item], seed: int = 0, device: str = "cpu") -> OnlineModel:
    """A fresh peer.

    Raises:
        ProtocolError: there is no peer of that name.
    """
    if name not in PEERS:
        raise ProtocolError(f"no peer is called {name!r}; there are {', '.join(sorted(PEERS))}")
    return PEERS[name](items, seed, device)
