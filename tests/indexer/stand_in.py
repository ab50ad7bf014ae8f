"""A small deterministic model with the interface of `RetrievalModel`."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from model.artifacts.chain import Chain
from model.artifacts.manifest import Manifest, publish, read_manifest
from model.histories import History
from model.retrieval.item_segments import ItemSegments
from model.retrieval.segment import Segment
from streaming.items import Item


def _vector(item: Item, dimension: int) -> np.ndarray:
    """Content path: the same item always has the same vector."""
    seed = zlib.crc32(f"{item.item_id}|{item.title}|{item.category}".encode())
    return np.random.default_rng(seed).normal(size=dimension).astype(np.float32)


class StandIn:
    """Items are in the code of their nearest centroid; users are means of their items."""

    levels = 3

    def __init__(
        self,
        item_ids: np.ndarray,
        vectors: np.ndarray,
        centroids: np.ndarray,
        items: ItemSegments | None = None,
    ) -> None:
        self.item_ids_N = np.asarray(item_ids, np.int64)
        self.vectors_ND = np.asarray(vectors, np.float32)
        self.centroids_CD = np.asarray(centroids, np.float32)
        self.first_level_codes, self.dimension = self.centroids_CD.shape
        self.codes_NQ = self._codes(self.vectors_ND)
        if items is None:
            items = ItemSegments.of([self.segment(np.arange(len(self.item_ids_N)))])
        self.items = items
        self._row = {int(i): n for n, i in enumerate(self.item_ids_N)}

    @classmethod
    def make(cls, items: int = 200, codes: int = 8, dimension: int = 6, seed: int = 0) -> StandIn:
        rng = np.random.default_rng(seed)
        ids = np.sort(rng.choice(items * 10, items, replace=False)) + 1
        return cls(ids, rng.normal(size=(items, dimension)), rng.normal(size=(codes, dimension)))

    def _codes(self, vectors: np.ndarray) -> np.ndarray:
        far = ((vectors[:, None] - self.centroids_CD[None]) ** 2).sum(axis=2)
        order = np.argsort(far, axis=1, kind="stable")[:, : self.levels]
        return np.resize(order, (len(vectors), self.levels)).astype(np.int64)

    def segment(self, rows: np.ndarray) -> Segment:
        """Some rows as a handover says them; each item has had one event."""
        n, empty = len(rows), np.empty(0, np.int64)
        return Segment(
            rows_n=rows,
            ids_n=self.item_ids_N[rows],
            z_nD=self.vectors_ND[rows],
            codes_nQ=self.codes_NQ[rows].astype(np.int16),
            words_nT=np.zeros((n, 1), np.int16),
            category_n=np.zeros(n, np.int16),
            event_rows_m=rows.copy(),
            events_m=np.ones(n, np.int64),
            counts_mH=np.ones((n, 1)),
            count_times_m=np.zeros(n, np.int64),
            near_rows_k=empty,
            near_starts_K=np.zeros(1, np.int64),
            near_items_P=np.empty(0, np.int32),
            near_weights_PH=np.empty((0, 1), np.float32),
            near_times_k=empty,
        )

    def embed(self, items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
        vectors = np.array([_vector(i, self.dimension) for i in items], np.float32)
        vectors = vectors.reshape(-1, self.dimension)
        return vectors, self._codes(vectors)

    def quantizer_space(self, z_nD: np.ndarray) -> np.ndarray:
        return z_nD

    def encode(self, histories: Sequence[History], now_ms: np.ndarray) -> np.ndarray:
        users = np.full((len(histories), self.dimension), 0.1, np.float32)
        for b, history in enumerate(histories):
            rows = [self._row[i] for i in history.items if i in self._row]
            if rows:
                users[b] += self.vectors_ND[rows].mean(axis=0)
        return users

    def log_interests(self, encoded: np.ndarray) -> np.ndarray:
        logits = encoded @ self.centroids_CD.T
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def user_vectors(self, encoded: np.ndarray, codes_BK: np.ndarray) -> np.ndarray:
        return encoded[:, None] + np.float32(0.5) * self.centroids_CD[codes_BK]

    def hot_items(self, count: int) -> np.ndarray:
        return self.item_ids_N[:0]

    def near(self, encoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        none = np.empty((len(encoded), 0))
        return none.astype(np.int64), none.astype(np.float32)

    def prior(self) -> tuple[np.ndarray, np.ndarray]:
        return self.item_ids_N[:0], np.empty((0, 1), np.float32)

    def prior_weights(self, encoded: np.ndarray) -> np.ndarray:
        return np.ones((len(encoded), 1), np.float32)

    def moved(self, step: float, seed: int = 1, share: float = 1.0) -> StandIn:
        """The same model after some training: a share of the items' vectors has moved."""
        rng = np.random.default_rng(seed)
        move = rng.normal(size=self.vectors_ND.shape) * step
        move *= rng.random(len(move))[:, None] < share
        return StandIn(self.item_ids_N, self.vectors_ND + move, self.centroids_CD)

    def hand_over(
        self,
        data_dir: Path,
        number: int,
        offsets: dict | None = None,
        after: int | None = None,
        **more: object,
    ) -> Path:
        """Publish as the trainer does: all items, or what differs from the handover `after`."""
        path = data_dir / "handover" / f"{number:08d}"
        name, rows, chain = f"items-{number:08d}.safetensors", np.arange(len(self.item_ids_N)), None
        if after is not None:
            before = data_dir / "handover" / f"{after:08d}"
            chain = Chain.of(before, read_manifest(before, "handover"))
            told = ItemSegments.of([Segment.load(one) for one in chain.paths()])
            same = np.zeros(len(rows), bool)
            known = rows[: len(told)]
            same[known] = (told.z(known) == self.vectors_ND[known]).all(axis=1)
            same[known] &= (told.codes_NQ[known] == self.codes_NQ[known]).all(axis=1)
            rows = rows[~same]
        facts = {
            "sequence": number,
            "model": self.export()[1],
            "segments": [*(chain.names if chain else ()), name],
            "offsets": {"items": offsets or {}, "sequences": {"0": number}},
            "event_time_range": [0, number],
            **more,
        }

        def write(directory: Path) -> None:
            if chain is not None:
                chain.link(directory)
            self.save(directory / "weights.safetensors")
            self.segment(rows).save(directory / name)

        publish(path, "handover", facts, write, chain.digests if chain else None)
        return path

    def export(self) -> tuple[dict[str, np.ndarray], dict]:
        return {"centroids": self.centroids_CD}, {}

    def save(self, path: Path) -> None:
        save_file(self.export()[0], path)

    @classmethod
    def load(
        cls, directory: Path, manifest: Manifest, items: ItemSegments, device: str = "cpu"
    ) -> StandIn:
        try:
            t = load_file(directory / "weights.safetensors")
        except SafetensorError as error:
            raise ValueError(f"weights.safetensors: {error}") from error
        if t["centroids"].shape[1] != items.dimension:
            raise ValueError("weights.safetensors does not fit the items")
        return cls(items.ids_N, items.z(np.arange(len(items))), t["centroids"], items)
