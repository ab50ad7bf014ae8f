"""What a snapshot's weights can do: embed items, weigh interests, make user vectors.

An item's retrieval vector is z. The score s(u, i, c) of `model.network.sparc` is the sum of three:
the inner product of z with the user vector of the item's code, what the item's recency prior adds
at the weights that the user gives it, and, where the item is a neighbour of the history, what that
adds. An index serves the first; the others are small and belong to a moment or to a user, so they
lie beside it.

Shapes: B users, L history length, N items, n of them, Q levels, C codes, K chosen codes, M
neighbours, P features of the recency prior, D dimension of z.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model.artifacts.manifest import Manifest, ManifestError
from model.histories import NO_ROW, History, HistoryBatch, pad_histories
from model.network.item_tower import ItemInputs, Titles, initial_ids
from model.network.sparc import Sparc, neighbour_features
from model.retrieval.item_segments import ItemSegments
from model.retrieval.model_facts import config_from_dict
from model.retrieval.segment import SegmentError
from model.retrieval.single_user import SingleUser
from model.tables.cooccurrence import Neighbours, look_up
from model.tables.item_features import hash_features
from streaming.items import Item

WEIGHTS = "weights.safetensors"
CHUNK = 65_536
"""Items embedded at once; bounds the memory."""
FORMER_MERGES = ("normalise_lists", "weigh_codes")
"""Other ways to merge lists, which facts of older models name; none was ever served."""


class ModelError(ValueError):
    """Weights or facts of a model are missing, do not fit together, or are not numbers."""


class Encoded(NamedTuple):
    """What the model says of B histories, in numpy; opaque outside this module.

    Attributes:
        vectors: makes the user vectors (B, K, D) of chosen codes (B, K).
        log_interests_BC: log p(c | u).
        popularity_weights_BP: weights of the recency prior's features.
        near_rows_BM: neighbours of the history, `NO_ROW` padded.
        near_scores_BM: what they add to the scores of their items.
    """

    vectors: Callable[[np.ndarray], np.ndarray]
    log_interests_BC: np.ndarray
    popularity_weights_BP: np.ndarray
    near_rows_BM: np.ndarray
    near_scores_BM: np.ndarray


class _SizesAlone(TorchFunctionMode):
    """Passes over what fills a new module with numbers.

    Beside a device that has none, these few calls import torch's compiler: a second and 80 MB of
    each process that loads a model.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is nn.init.normal_:
            return kwargs["tensor"]
        if function is torch.eye and "out" in kwargs:
            return kwargs["out"]
        return (torch.empty if function is torch.randn else function)(*args, **kwargs)


class RetrievalModel:
    """Inference in eval mode without gradients; never changes, so threads may share it.

    Attributes:
        item_ids_N: int64, the catalogue in row order.
        codes_NQ: int16 codes.
        centroids_CD: float32 first-level codewords in quantizer space.
        first_level_codes, levels, dimension: C, Q and D.
        clock_ms: time to which the popularity features are brought forward.
    """

    clock_ms: int

    def __init__(
        self,
        tensors: dict[str, Tensor],
        facts: dict[str, Any],
        items: ItemSegments,
        device: str = "cpu",
    ) -> None:
        """Build from what `Learner.export` gives.

        Raises:
            ModelError: naming the tensor or fact that is missing, misshapen or not finite.
        """
        self._device = torch.device(device)
        self.items = items
        try:
            self._config = config_from_dict(facts["config"])
            self._seed = int(facts["seed"])
            self._one_user_vector = bool(facts.get("one_user_vector", False))
            for name in FORMER_MERGES:
                if facts.get(name):
                    raise ModelError(
                        f"the model's facts ask for {name}, and scores of lists are merged as "
                        "they are now: train the model anew, or serve it with the version of this "
                        "program that made it"
                    )
            self.clock_ms = int(facts["clock_ms"])
            self._build({name: value.to(self._device) for name, value in tensors.items()})
        except ModelError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"the weights do not fit the model's facts: {error}") from error

    @classmethod
    def load(
        cls,
        directory: Path,
        manifest: Manifest,
        items: ItemSegments | None = None,
        device: str = "cpu",
    ) -> RetrievalModel:
        """Read a published directory whose digests have been verified.

        Args:
            directory: a handover or a snapshot.
            manifest: of it.
            items: what its segments say, where they are read already.
            device: "cpu" or "cuda".

        Raises:
            ModelError: if the weights are unreadable, do not fit, or hold NaN or infinity.
        """
        path = directory / WEIGHTS
        if "model" not in manifest.facts:
            raise ModelError(f"{directory}: the manifest's facts describe no model")
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: not readable as safetensors ({error})") from error
        try:
            if items is None:
                items = ItemSegments.load(directory, manifest)
            return cls(tensors, manifest.facts["model"], items, device)
        except (ManifestError, SegmentError) as error:
            raise ModelError(f"{directory}: {error}") from error
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error

    def _build(self, tensors: dict[str, Tensor]) -> None:
        for name, value in tensors.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise ModelError(f"tensor {name!r} holds NaN or infinity")
        prefix = "sparc."
        own = {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
        self._refuse_other_sizes(own)
        sparc = Sparc(self._config, one_user_vector=self._one_user_vector)
        self._sparc = sparc.to(self._device).eval()
        self._sparc.load_state_dict(own)
        with torch.inference_mode():
            self._views = self._sparc.code_views()
        self._words_WD, self._categories_KD = tensors["words_WD"], tensors["categories_KD"]
        self._idf_W = tensors["words.idf_W"]
        items, config = self.items, self._config
        if items.dimension != config.item_tower.dimension:
            raise ModelError(
                f"the items have {items.dimension} dimensions, the facts declare "
                f"{config.item_tower.dimension}"
            )
        self._code_popularity_CP = tensors["codes.popularity_CP"]
        # a device answers batches; one history alone is quicker beside it
        self._single = SingleUser(self._sparc, self._code_popularity_CP.cpu().numpy())
        self.item_ids_N = items.ids_N
        self.codes_NQ = items.codes_NQ
        self._prior = items.counts.prior(config.popularity_half_lives_days, self.clock_ms)
        codebooks_QCD = self._sparc.quantizer.codebooks_QCD
        self.levels, self.first_level_codes, _ = codebooks_QCD.shape
        self.centroids_CD = codebooks_QCD[0].cpu().numpy()
        self.dimension = items.dimension
        if self.codes_NQ.shape[1] != self.levels:
            raise ModelError("the items do not fit the weights")

    def _refuse_other_sizes(self, own: dict[str, Tensor]) -> None:
        """Before anything is allocated: facts that were forged may declare any size."""
        with torch.device("meta"), _SizesAlone():
            declared = {
                name: value.shape for name, value in Sparc(self._config).state_dict().items()
            }
        there = {name: value.shape for name, value in own.items()}
        for name in sorted(declared.keys() | there.keys()):
            if declared.get(name) != there.get(name):
                raise ModelError(
                    f"the weights do not fit the model's facts: {name!r} is "
                    f"{list(there.get(name, ()))}, they declare {list(declared.get(name, ()))}"
                )

    @property
    def vectors_ND(self) -> np.ndarray:
        """All retrieval vectors, float32: a copy."""
        return self.items.z(np.arange(len(self.items)))

    def _first_codes(self, rows: np.ndarray) -> np.ndarray:
        """First-level codes of rows, int64; `NO_ROW` where there is none."""
        if not len(self.items):
            return np.full(rows.shape, NO_ROW, np.int64)
        return np.where(rows >= 0, self.codes_NQ[rows, 0], NO_ROW).astype(np.int64)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Catalogue rows of ids, `NO_ROW` where unknown."""
        return self.items.rows(ids)

    @torch.inference_mode()
    def embed(self, items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
        """Retrieval vectors (n, D) float32 and codes (n, Q) int64 of any items, as they are given.

        An item that the model has not learnt is placed by its title and category alone.
        """
        z_nD = self._place(items)
        codes_nQ = self._sparc.quantizer.assign(self._sparc.quantizer.standardise(z_nD))
        return z_nD.cpu().numpy(), codes_nQ.cpu().numpy()

    def _place(self, items: Sequence[Item]) -> Tensor:
        """Z of items."""
        ids_n = np.fromiter((item.item_id for item in items), np.int64, len(items))
        rows_n = self.rows(ids_n)
        config, tower = self._config.item_tower, self._sparc.item_tower
        parts = [torch.zeros(0, config.dimension, device=self._device)]
        for a in range(0, len(items), CHUNK):
            here = slice(a, a + CHUNK)
            hashed = hash_features(items[here])
            content_nD = self._content(hashed.words_NT, hashed.category_N)
            id_nD = initial_ids(self._seed, ids_n[here], config).to(self._device)
            known = np.flatnonzero(rows_n[here] != NO_ROW)
            old = rows_n[here][known]
            words_nT, category_n = self.items.features(old)
            learnt = torch.from_numpy(self.items.z(old)).to(self._device)
            at = torch.from_numpy(known).to(self._device)
            if not config.length:  # where it is given, the id part cannot be told
                id_nD[at] = learnt - self._content(words_nT, category_n)
            z_nD = tower.whole(content_nD, id_nD)
            same_n = (hashed.words_NT[known] == words_nT).all(axis=1)
            same_n &= hashed.category_N[known] == category_n
            z_nD[at[torch.from_numpy(same_n)]] = learnt[torch.from_numpy(same_n)]
            parts.append(z_nD)
        return torch.cat(parts)

    def _content(self, words_nT: np.ndarray, category_n: np.ndarray) -> Tensor:
        """The part of z that hashed features give."""
        size = len(words_nT)
        inputs = ItemInputs(
            torch.zeros(size, 0, device=self._device),
            Titles(torch.from_numpy(words_nT).to(self._device), self._idf_W),
            self._words_WD,
            torch.from_numpy(category_n).to(self._device),
            self._categories_KD,
        )
        return self._sparc.item_tower.content(inputs)

    @torch.inference_mode()
    def quantizer_space(self, z_nD: np.ndarray) -> np.ndarray:
        """Where places (n, D) lie in the space of the centroids: float32 of the same shape."""
        z = torch.from_numpy(np.asarray(z_nD, np.float32)).to(self._device)
        return self._sparc.quantizer.standardise(z).cpu().numpy()

    def encode(self, histories: Sequence[History], now_ms: np.ndarray) -> Encoded:
        """Encode histories as of `now_ms` (B,). An empty history gives the prior."""
        batch = pad_histories(histories, self.rows)
        now_B = np.asarray(now_ms, dtype=np.int64)
        near = look_up(
            self._config.neighbours,
            self.items.slots,
            batch,
            now_B,
        )
        if len(histories) == 1:
            return self._encode_one(batch, now_B, near)
        return self._encode_many(batch, now_B, near)

    def _encode_one(self, batch: HistoryBatch, now_B: np.ndarray, near: Neighbours) -> Encoded:
        known_L = batch.known_BL[0]
        rows_L = batch.rows_BL[0, known_L]
        said = self._single.answers(
            self.items.z(rows_L),
            (now_B[0] - batch.times_BL[0, known_L]).astype(np.float32),
            self._first_codes(rows_L),
            self._first_codes(near.rows_BK[0]),
            near.scores_BKH[0],
        )
        return Encoded(
            lambda codes_1K: self._single.vectors(said, codes_1K[0])[None],
            said.log_interests_C[None],
            said.popularity_weights_P[None],
            near.rows_BK,
            said.near_K[None],
        )

    @torch.inference_mode()
    def _encode_many(self, batch: HistoryBatch, now_B: np.ndarray, near: Neighbours) -> Encoded:
        sparc = self._sparc
        known_BL = torch.from_numpy(batch.known_BL).to(self._device)
        age_BL = np.where(batch.known_BL, now_B[:, None] - batch.times_BL, 0).astype(np.float32)
        z_BLD = torch.from_numpy(self.items.z(batch.rows_BL)).to(self._device)
        histories = sparc.encode(z_BLD, torch.from_numpy(age_BL).to(self._device), known_BL)
        near_BKH = neighbour_features(torch.from_numpy(near.scores_BKH).to(self._device))
        evidence_BCF = sparc.interest_evidence(
            self._code_popularity_CP.expand(len(known_BL), -1, -1),
            torch.from_numpy(self._first_codes(near.rows_BK)).to(self._device),
            near_BKH,
            torch.from_numpy(self._first_codes(batch.rows_BL)).to(self._device),
        )
        weights = sparc.evidence_weights(histories)
        popularity_weights_BP = torch.stack([w for w, _ in weights]).mean(0)
        near_weights_BH = torch.stack([w for _, w in weights]).mean(0)
        near_BK = (near_BKH @ near_weights_BH.unsqueeze(2)).squeeze(2)
        contexts = sparc.contexts(histories, self._views)
        log_interests_BC = sparc.log_interests(histories, contexts, self._views, evidence_BCF)

        @torch.inference_mode()
        def vectors(codes_BK: np.ndarray) -> np.ndarray:
            """The members' mean: each has its part of z, and they are weighed alike."""
            codes = torch.from_numpy(np.array(codes_BK, np.int64)).to(self._device)
            if self._one_user_vector:
                codes = torch.full_like(codes, self.first_level_codes)  # its query is the last
            rows = torch.arange(len(codes), device=self._device).unsqueeze(1)
            members = [
                tower(history, context[rows, codes])
                for tower, history, context in zip(sparc.towers, histories, contexts, strict=True)
            ]
            vectors_BKD: np.ndarray = (torch.cat(members, dim=2) / len(members)).cpu().numpy()
            return vectors_BKD

        return Encoded(
            vectors,
            log_interests_BC.cpu().numpy(),
            popularity_weights_BP.cpu().numpy(),
            near.rows_BK,
            near_BK.cpu().numpy(),
        )

    def log_interests(self, encoded: Encoded) -> np.ndarray:
        """Log p(c | u): (B, C) float32, rows normalised."""
        return encoded.log_interests_BC

    def near(self, encoded: Encoded) -> tuple[np.ndarray, np.ndarray]:
        """Neighbours of the histories: ids (B, M) int64, -1 padded, and what each adds, float32."""
        rows_BM = encoded.near_rows_BM
        if not len(self.items):
            return np.full(rows_BM.shape, -1), encoded.near_scores_BM
        return np.where(rows_BM >= 0, self.item_ids_N[rows_BM], -1), encoded.near_scores_BM

    def prior(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids (n,) int64 of the items that have a recency prior, and its features (n, P) f32."""
        rows_n, prior_nP = self._prior
        return self.item_ids_N[rows_n], prior_nP

    def prior_weights(self, encoded: Encoded) -> np.ndarray:
        """The weights that the users give the features of the recency prior: (B, P) float32."""
        return encoded.popularity_weights_BP

    def hot_items(self, count: int) -> np.ndarray:
        """Ids of the items of the greatest recency prior, weighed as for the mean user."""
        parts = torch.stack([cast(nn.Linear, linear).bias for linear in self._sparc.evidence])
        weights_P = parts.detach().mean(0)[: self._config.popularity_features].cpu().numpy()
        ids_n, prior_nP = self.prior()
        return ids_n[np.argsort(-(prior_nP @ weights_P), kind="stable")[:count]]

    def user_vectors(self, encoded: Encoded, codes_BK: np.ndarray) -> np.ndarray:
        """The vector of each (user, chosen code): (B, K, D) float32."""
        return encoded.vectors(np.asarray(codes_BK))
