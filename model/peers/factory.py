"""The peers by name. A new peer is a line here; the conformance suite then runs on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from model.evaluation.online_model import OnlineModel
from model.evaluation.protocol import ProtocolError
from model.peers import neighbours, popularity
from model.peers.comirec import SelfAttentiveInterests
from model.peers.frozen import Frozen
from model.peers.mind import InterestCapsules
from model.peers.sasrec import CausalAttention
from model.peers.softmax_retriever import Encoder, SoftmaxRetriever, SoftmaxRetrieverConfig
from model.peers.two_tower import PooledHistory
from streaming.items import Item

Builder = Callable[[Sequence[Item], int, str], OnlineModel]
"""Catalogue (ascending by id), seed, device -> a fresh model."""

HALF_LIVES = (3.0, 10.0, 40.0)
"""Of the recency prior, in days."""


def _neural(encoder: Callable[[int, float], Encoder], config: SoftmaxRetrieverConfig) -> Builder:
    return lambda items, seed, device: SoftmaxRetriever(items, encoder, config, seed, device)


_IDS = SoftmaxRetrieverConfig()
_CONTENT = SoftmaxRetrieverConfig(content=True, batch=512, epochs=4, dropout=0.5)
_RECENCY = replace(_CONTENT, half_lives=HALF_LIVES)
_SASREC = _neural(CausalAttention, _IDS)

PEERS: dict[str, Builder] = {
    "popularity": lambda items, seed, device: popularity.Popularity(
        items, popularity.PopularityConfig()
    ),
    "neighbours": lambda items, seed, device: neighbours.Neighbours(
        items, neighbours.NeighboursConfig()
    ),
    "two_tower": _neural(PooledHistory, _CONTENT),
    "two_tower_recency": _neural(PooledHistory, _RECENCY),
    "sasrec": _SASREC,
    "sasrec_frozen": lambda items, seed, device: Frozen(_SASREC(items, seed, device)),
    "sasrec_recency": _neural(CausalAttention, replace(_RECENCY, dropout=0.3)),
    "comirec": _neural(SelfAttentiveInterests, _IDS),
    "comirec_content": _neural(SelfAttentiveInterests, replace(_CONTENT, dropout=0.3)),
    "mind": _neural(InterestCapsules, _IDS),
}


def build(name: str, items: Sequence[Item], seed: int = 0, device: str = "cpu") -> OnlineModel:
    """A fresh peer.

    Raises:
        ProtocolError: there is no peer of that name.
    """
    if name not in PEERS:
        raise ProtocolError(f"no peer is called {name!r}; there are {', '.join(sorted(PEERS))}")
    return PEERS[name](items, seed, device)
