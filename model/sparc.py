"""SPARC, composed: item tower, residual quantizer, user tower and interest head, and their loss.

A user's probability of an item is p(i | u) = p(c | u) p(i | u, c), c the item's first-level code.
Within the list of c the logit of an item is

    s(u, i, c) = <user vector of c, z_i> + evidence weights of u . popularity features of i
                 + evidence weights of u . neighbour score of (history, i)

which is one inner product once the features are further dimensions of the item's vector (see
`retrieval_model`). Loss weights: `LossWeights`; the paper fixes only that of the code-shuffle BPR.
Shapes: B examples, L history length, S candidates, G clocks, C codes, M places of a list, K
neighbours, H neighbour half-lives, P popularity features, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import cooccurrence, item_tower, losses, quantizer, user_tower
from model.interest_head import InterestHead
from model.item_tower import ItemInputs, ItemTower
from model.quantizer import ResidualQuantizer
from model.user_tower import EncodedHistory, UserTower

LENGTH_PARTS = 6
"""Parts of a batch that are padded on their own."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses; 0 leaves one out.

    Attributes:
        items: list softmax, -log p(i | u, c).
        interests: cross-entropy of the interest head, -log p(c | u).
        binary: binary cross-entropy of (user, item).
        quantization: RQ reconstruction and commitment.
        commitment: share of the commitment in it.
        shuffled_code: BPR of right against shuffled code (10 in the paper, whose other losses
            have unknown scales).
        contrast: user-item contrastive.
        reconstruction_contrast: item-item contrastive between z and its reconstruction.
    """

    items: float = 1.0
    interests: float = 1.0
    binary: float = 0.1
    quantization: float = 0.1
    commitment: float = 0.1
    shuffled_code: float = 0.1
    contrast: float = 0.2
    reconstruction_contrast: float = 0.05


@dataclass(frozen=True)
class Config:
    """Architecture and losses.

    Attributes:
        item_tower: item tower; its `dimension` is that of the whole space.
        quantizer: codebooks.
        user_tower: history encoder and code-conditioned attention.
        neighbours: co-occurrence memory.
        popularity_half_lives_days: half-lives of the recency prior.
        key_dimension: places in a list, one dimension each, that carry neighbour scores through
            the inner-product index; best above the length of most lists.
        reconstruction_queries: share of examples whose user vector is asked with the target's
            reconstruction in place of its codeword. The paper has one half; but three levels all
            but name the target, so its user vector learns to copy the query, and the list loss
            (2.1 in training, 4.7 when served by codeword) learns little from the history.
        contrast_temperature: of the reconstruction contrast (cosines).
        losses: weights.
    """

    item_tower: item_tower.Config = field(default_factory=item_tower.Config)
    quantizer: quantizer.Config = field(default_factory=quantizer.Config)
    user_tower: user_tower.Config = field(default_factory=user_tower.Config)
    neighbours: cooccurrence.Config = field(default_factory=cooccurrence.Config)
    popularity_half_lives_days: tuple[float, ...] = (2.0, 7.0, 30.0, 120.0)
    key_dimension: int = 256
    reconstruction_queries: float = 0.0
    contrast_temperature: float = 0.1
    losses: LossWeights = field(default_factory=LossWeights)

    @property
    def popularity_features(self) -> int:
        """P: one for each half-life and one for "was clicked before"."""
        return len(self.popularity_half_lives_days) + 1


class Batch(NamedTuple):
    """One training step; positions point into the S candidates, -1 is padding.

    Attributes:
        items: features of the candidates.
        item_rows_S: catalogue rows of the candidates.
        negative_S: True where an item may stand against a positive.
        log_q_S: log-probability of being a candidate.
        log_frequency_S: log of the expected number of draws among the positives.
        target_B: positions of the positives.
        history_BL: positions of the histories' items.
        age_BL: ages of the history's events in ms, float32.
        clock_B: which clock an example belongs to.
        popularity_GSP: popularity features of candidates at each clock.
        code_popularity_GCP: the same of codes (without the "seen" column).
        neighbour_BK: positions of the history's neighbours.
        neighbour_code_BK: their codes, also where they are no candidates.
        neighbour_score_BKH: features of their scores.
        history_code_BL: codes of the history's items.
    """

    items: ItemInputs
    item_rows_S: Tensor
    negative_S: Tensor
    log_q_S: Tensor
    log_frequency_S: Tensor
    target_B: Tensor
    history_BL: Tensor
    age_BL: Tensor
    clock_B: Tensor
    popularity_GSP: Tensor
    code_popularity_GCP: Tensor
    neighbour_BK: Tensor
    neighbour_code_BK: Tensor
    neighbour_score_BKH: Tensor
    history_code_BL: Tensor


class Outcome(NamedTuple):
    """Losses of a step by name (the total is "loss"), and the candidates' z and codes."""

    losses: dict[str, Tensor]
    z_SD: Tensor
    codes_SQ: Tensor


def code_mass(code_BK: Tensor, value_BKF: Tensor, codes: int) -> Tensor:
    """Sums of values by code: (B, codes, F); code -1 is left out.

    >>> code_mass(torch.tensor([[1, 1, -1]]), torch.ones(1, 3, 1), 2).squeeze().tolist()
    [0.0, 2.0]
    """
    value_BKF = value_BKF * (code_BK >= 0).unsqueeze(2)
    index_BKF = code_BK.clamp(min=0).unsqueeze(2).expand_as(value_BKF)
    shape = (code_BK.shape[0], codes, value_BKF.shape[2])
    return torch.zeros(shape, device=value_BKF.device).scatter_add(1, index_BKF, value_BKF)


def neighbour_features(scores: Tensor) -> Tensor:
    """Feature of a neighbour score: log(1 + 4 s)."""
    return torch.log1p(4 * scores)


class Sparc(nn.Module):
    """The dense part of the model; tables of ids and words are `RowTable`s of the learner."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        d = config.item_tower.dimension
        self.config = config
        self.item_tower = ItemTower(config.item_tower)
        self.quantizer = ResidualQuantizer(d, config.quantizer)
        self.user_tower = UserTower(d, config.user_tower)
        half_lives = len(config.popularity_half_lives_days)
        near = len(config.neighbours.half_lives_days)
        self.interest_head = InterestHead(d, half_lives + near + 1, config.user_tower.scale)
        self.evidence = nn.Linear(d, config.popularity_features + near)
        nn.init.zeros_(self.evidence.weight)
        with torch.no_grad():
            self.evidence.bias.fill_(0.2)
            self.evidence.bias[half_lives] = 0.0
        self.binary_bias = nn.Parameter(torch.zeros(()))

    def interest_evidence(
        self,
        code_popularity_BCP: Tensor,
        neighbour_code_BK: Tensor,
        neighbour_score_BKH: Tensor,
        history_code_BL: Tensor,
    ) -> Tensor:
        """What speaks for each code before anything is learnt: (B, C, F)."""
        codes = self.config.quantizer.codes
        near_BCH = code_mass(neighbour_code_BK, neighbour_score_BKH.expm1() / 4, codes)
        length = history_code_BL.shape[1]
        places_L = torch.arange(length - 1, -1, -1, device=history_code_BL.device)
        decay_BL1 = (0.85**places_L).expand(history_code_BL.shape).unsqueeze(2)
        own_BC1 = code_mass(history_code_BL, decay_BL1, codes)
        return torch.cat(
            [code_popularity_BCP, neighbour_features(near_BCH), torch.log1p(4 * own_BC1)], dim=2
        )

    def log_interests(self, encoded: EncodedHistory, evidence_BCF: Tensor) -> Tensor:
        """Log p(c | u): (B, C) float32."""
        codebook_CD = self.quantizer.codebooks_QCD[0]
        every_BCD = codebook_CD.expand(len(encoded.state_BD), -1, -1)
        logs_BC: Tensor = self.interest_head(
            encoded.state_BD,
            self.user_tower.contexts(encoded, every_BCD),
            codebook_CD,
            self.quantizer.centroids(),
            evidence_BCF,
        )
        return logs_BC

    def evidence_weights(self, state_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of popularity features (B, P) and of neighbour features (B, H)."""
        weights = self.evidence(state_BD).float()
        p = self.config.popularity_features
        return weights[:, :p], weights[:, p:]

    def forward(self, batch: Batch, generator: torch.Generator) -> Outcome:
        """All losses of one step. `generator` (CPU) draws queries, shuffles and negatives."""
        weights = self.config.losses
        content_SD = self.item_tower.content(batch.items)
        whole_SD = (content_SD + batch.items.id_SD).detach()
        codes_SQ = self.quantizer.assign(self.quantizer.standardise(whole_SD))
        kept_S1 = _kept((len(content_SD), 1), self.config.item_tower.id_dropout, generator)
        z_SD = content_SD + batch.items.id_SD * kept_S1.to(content_SD.device)
        code_S = codes_SQ[:, 0]
        target_B = batch.target_B
        size = len(target_B)
        device = z_SD.device

        shuffle_B = torch.randperm(size, generator=generator).to(device)
        share = self.config.reconstruction_queries
        whole_B1 = (torch.rand(size, 1, generator=generator) < share).to(device)
        positive_BD = z_SD.index_select(0, target_B)
        quantized = self.quantizer(positive_BD, codes_SQ.index_select(0, target_B))
        reconstruction_BD = self.quantizer.reconstruct(quantized.sum_SD).float()
        query_BD = torch.where(whole_B1, quantized.sum_SD.detach(), quantized.first_SD)
        queries_B2D = torch.stack([query_BD, query_BD.index_select(0, shuffle_B)], dim=1)
        evidence_BCF = self.interest_evidence(
            batch.code_popularity_GCP.index_select(0, batch.clock_B),
            batch.neighbour_code_BK,
            batch.neighbour_score_BKH,
            batch.history_code_BL,
        )
        state_BD, users_B2D, log_interests_BC = self._users(
            batch, z_SD, queries_B2D, evidence_BCF, generator
        )
        right_BD, shuffled_BD = users_B2D.unbind(1)
        rows_B = batch.item_rows_S.index_select(0, target_B)

        code_B = code_S.index_select(0, target_B)
        few = slice(0, 512)  # of a shuffled batch: enough contrast, bounded cost
        subset = shuffle_B[few]
        wrong_BD = positive_BD.index_select(0, shuffle_B)
        parts = {
            "items": self._list_loss(batch, state_BD, right_BD, z_SD, code_S),
            "interests": losses.interest_cross_entropy(log_interests_BC, code_B),
            "binary": losses.binary_cross_entropy(
                (right_BD * positive_BD).sum(1) + self.binary_bias,
                (right_BD * wrong_BD).sum(1) + self.binary_bias,
            ),
            "quantization": losses.quantization(
                positive_BD,
                reconstruction_BD,
                quantized.input_SD,
                quantized.sum_SD,
                weights.commitment,
            ),
            "shuffled_code": losses.shuffled_code_ranking(right_BD, shuffled_BD, positive_BD),
            "contrast": losses.contrastive(
                self.interest_head.interest(state_BD).index_select(0, subset).float(),
                positive_BD.index_select(0, subset),
                rows_B[subset],
                batch.log_frequency_S[target_B[subset]],
                1.0,
            ),
            "reconstruction_contrast": losses.reconstruction_contrastive(
                positive_BD.index_select(0, subset),
                reconstruction_BD.index_select(0, subset),
                rows_B[subset],
                self.config.contrast_temperature,
            ),
        }
        parts["loss"] = torch.stack([getattr(weights, n) * v for n, v in parts.items()]).sum()
        return Outcome(parts, whole_SD, codes_SQ)

    def _users(
        self,
        batch: Batch,
        z_SD: Tensor,
        query_BKD: Tensor,
        evidence_BCF: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """States (B, D), user vectors (B, K, D) and log-interests (B, C).

        Most histories are short and a few are long, so users are taken by length, a part at a
        time, each padded only to its own longest.
        """
        known_BL = batch.history_BL >= 0
        # one gather of all events: each gather from z costs a gradient as long as z
        events_ED = z_SD.index_select(0, batch.history_BL[known_BL])
        dropout = self.config.user_tower.dropout
        kept_ED = _kept(tuple(events_ED.shape), dropout, generator).to(z_SD.device)
        events_ED = F.pad(events_ED * kept_ED / (1 - dropout), (0, 0, 1, 0))
        event_BL = (torch.cumsum(known_BL.flatten(), 0).view_as(known_BL)) * known_BL
        order_B = torch.argsort(known_BL.sum(1), stable=True)
        states, users, interests = [], [], []
        for part in order_B.chunk(LENGTH_PARTS):
            length = max(1, int(known_BL[part[-1]].sum()))
            encoded = self.user_tower.encode(
                F.embedding(event_BL[part, -length:], events_ED),
                batch.age_BL[part, -length:],
                known_BL[part, -length:],
            )
            states.append(encoded.state_BD)
            users.append(self.user_tower(encoded, query_BKD.index_select(0, part)).float())
            interests.append(self.log_interests(encoded, evidence_BCF.index_select(0, part)))
        back_B = torch.argsort(order_B)
        state_BD, users_BKD, interests_BC = (
            torch.cat(parts).index_select(0, back_B) for parts in (states, users, interests)
        )
        return state_BD, users_BKD, interests_BC

    def _list_loss(
        self,
        batch: Batch,
        state_BD: Tensor,
        right_BD: Tensor,
        z_SD: Tensor,
        code_S: Tensor,
    ) -> Tensor:
        """-log p(i | u, c): each example against the candidates of its positive's code."""
        lists = CodeLists.of(code_S, batch.negative_S, self.config.quantizer.codes)
        code_B = code_S.index_select(0, batch.target_B)
        logits_BM = lists.inner_products(right_BD, z_SD, code_B)
        members_BM = lists.members_CM.index_select(0, code_B)
        popularity_weights_BP, near_weights_BH = self.evidence_weights(state_BD)
        count = z_SD.shape[0]
        flat_BM = batch.clock_B.unsqueeze(1) * count + members_BM.clamp(min=0)
        features_BMP = F.embedding(flat_BM, batch.popularity_GSP.flatten(0, 1))
        logits_BM = logits_BM + (features_BMP @ popularity_weights_BP.unsqueeze(2)).squeeze(2)
        near_BK = (batch.neighbour_score_BKH @ near_weights_BH.unsqueeze(2)).squeeze(2)
        place_BK, inside_BK = lists.places(batch.neighbour_BK, code_S, code_B)
        logits_BM = logits_BM.scatter_add(1, place_BK, near_BK * inside_BK)
        # what the user has is never an answer, unless it is the target
        absent_BM = members_BM < 0
        old_BL = batch.history_BL.masked_fill(batch.history_BL == batch.target_B.unsqueeze(1), -1)
        place_BL, inside_BL = lists.places(old_BL, code_S, code_B)
        seen_BM = torch.zeros_like(logits_BM).scatter_add(1, place_BL, inside_BL.float())
        logits_BM = logits_BM.masked_fill(absent_BM | (seen_BM > 0), float("-inf"))
        log_q_BM = F.embedding(members_BM.clamp(min=0), batch.log_q_S.unsqueeze(1)).squeeze(2)
        place_B = lists.place_S.index_select(0, batch.target_B)
        return losses.list_softmax(logits_BM, place_B, log_q_BM)


def _kept(shape: tuple[int, ...], dropout: float, generator: torch.Generator) -> Tensor:
    """1 where a value survives dropout, else 0; of the learner's own randomness."""
    return (torch.rand(shape, generator=generator) >= dropout).float()


class CodeLists(NamedTuple):
    """Candidates by first-level code.

    Attributes:
        members_CM: positions of each code's candidates, -1 padded.
        place_S: place of a candidate in its code's list, -1 for none.
        sizes: length of each list.
    """

    members_CM: Tensor
    place_S: Tensor
    sizes: list[int]

    @classmethod
    def of(cls, code_S: Tensor, listed_S: Tensor, codes: int) -> CodeLists:
        """Lists of the candidates where `listed_S` holds."""
        position_R = torch.nonzero(listed_S).squeeze(1)
        order_R = position_R[torch.argsort(code_S[position_R], stable=True)]
        sorted_R = code_S[order_R]
        size_C = torch.bincount(sorted_R, minlength=codes)
        start_C = torch.cumsum(size_C, 0) - size_C
        place_R = torch.arange(len(order_R), device=code_S.device) - start_C[sorted_R]
        members_CM = torch.full((codes, max(1, int(size_C.max()))), -1, device=code_S.device)
        members_CM[sorted_R, place_R] = order_R
        place_S = torch.full_like(code_S, -1)
        place_S[order_R] = place_R
        return cls(members_CM, place_S, size_C.tolist())

    def inner_products(self, user_BD: Tensor, z_SD: Tensor, code_B: Tensor) -> Tensor:
        """<user, member> for the list of each user's code: (B, M), 0 where padded.

        Users are taken code by code, so that no (B, M, D) array is made.
        """
        width = self.members_CM.shape[1]
        order_B = torch.argsort(code_B, stable=True)
        counts_C = torch.bincount(code_B, minlength=len(self.sizes)).tolist()
        users = user_BD.index_select(0, order_B).split(counts_C)
        items = z_SD.index_select(0, self.members_CM[self.members_CM >= 0]).split(self.sizes)
        blocks = [
            F.pad((user_bD @ item_mD.T).float(), (0, width - len(item_mD)))
            for user_bD, item_mD in zip(users, items, strict=True)
            if len(user_bD)
        ]
        return torch.cat(blocks).index_select(0, torch.argsort(order_B))

    def places(self, position_BK: Tensor, code_S: Tensor, code_B: Tensor) -> tuple[Tensor, Tensor]:
        """Places (B, K) of candidates in the lists of `code_B`, and whether they are in them."""
        safe_BK = position_BK.clamp(min=0)
        place_BK = self.place_S[safe_BK]
        inside_BK = (position_BK >= 0) & (place_BK >= 0) & (code_S[safe_BK] == code_B.unsqueeze(1))
        return place_BK.clamp(min=0), inside_BK
