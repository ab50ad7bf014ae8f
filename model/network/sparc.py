"""SPARC, composed: item tower, residual quantizer, user tower and interest head, and their loss.

The logit of an item i, whose first-level code is c, for a user u is

    s(u, i) = <user vector of c, z_i> + evidence weights of u . recency prior of i
              + evidence weights of u . neighbour score of (history, i)

which is one inner product once the features are further dimensions of the item's vector (see
`retrieval_model`). It is trained by one softmax over the whole catalogue (or a sample of it), so
scores of different codes can be compared as they are. The interest head, which chooses the codes
to search, learns from the target's code and from the share of p(i | u) that each code holds.

- *Members.* Two user towers read two halves of z, each trained by a softmax of its own; the mean
  of their scores is served, as one inner product of twice the dimension. Two independent views
  of few events per item err less together than one of twice the size (docs/RESULTS.md).
- *One softmax, not a softmax of codes times one within the code's list.* The product is the same
  distribution in theory; but items change their codes while the codebook learns, and in a list of
  two hundred items there is little to learn from.
- *The head and the quantizer listen.* They see user states and z without handing back a gradient,
  except the quantizer's small commitment and contrast: what they need is in there already.

Loss weights: `sparc_config.LossWeights`; the paper fixes only that of the code-shuffle BPR.
Shapes: B examples, L history length, S candidates, G clocks, C codes, K neighbours, H neighbour
half-lives, P popularity features, M members, D dimension, d = D / M.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import launches
from model.network import item_tower, losses
from model.network.candidate_layout import Layout
from model.network.candidate_softmax import candidate_softmax
from model.network.interest_head import InterestHead
from model.network.item_tower import ItemTower
from model.network.matches import Matches
from model.network.quantizer import ResidualQuantizer
from model.network.sparc_config import SparcConfig
from model.network.step_batch import Batch
from model.network.tiled_softmax import lay_out, tiled_softmax
from model.network.towers_together import dropped, users_together
from model.network.user_tower import EncodedHistory, UserTower, age_buckets
from model.ranks import Share

OWN_DECAY = 0.85
"""Weight of an event for each newer one, in how often a user was at a code."""
LENGTH_PARTS = 6
"""Parts of a batch that are padded on their own, where padding costs more than operations."""


class CodeViews(NamedTuple):
    """What is made of the first-level codebook, whoever the user is.

    Attributes:
        queries: each member's queries (C, d); with one user vector (C + 1, d), its query last.
        read_CD: what the interest head looks for in a code's context.
        centroid_CD: codewords in the space of z.
    """

    queries: list[Tensor]
    read_CD: Tensor
    centroid_CD: Tensor


class Users(NamedTuple):
    """What is made of B histories.

    Attributes:
        state_BD: states of all members, side by side.
        parts: users that were taken together.
        vectors: each member's user vectors (b, C, d) of each part.
        log_interests_BC: log p(c | u).
        weights: each member's weights of popularity (B, P) and neighbours (B, H).
        interest_BD: what the head makes of states.

    Where operations are to be few, vectors and weights are of all members at once, (M, ...).
    """

    state_BD: Tensor
    parts: list[Tensor]
    vectors: list[list[Tensor]]
    log_interests_BC: Tensor
    weights: list[tuple[Tensor, Tensor]]
    interest_BD: Tensor | None = None


class Outcome(NamedTuple):
    """Losses of a step by name (the total is "loss"), and the candidates' z and codes.

    `input_SD` is z standardised, what was given codes.
    """

    losses: dict[str, Tensor]
    z_SD: Tensor
    input_SD: Tensor
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
    """The dense part of the model; tables of ids and words are `RowTable`s of the learner.

    Args:
        config: architecture and losses.
        one_user_vector: a control, what a user vector for each code is worth: the attention asks
            one learned query (that of a codeword of zeros), and what it reads makes the user
            vector of all codes. The interest head still reads each code's context, popularity and
            neighbours speak for items as before. Right and shuffled code then have the same
            vector, so the loss that ranks them has no gradient; nor have the weights that make
            queries of codewords, since the head hands none back.
    """

    def __init__(self, config: SparcConfig, *, one_user_vector: bool = False) -> None:
        super().__init__()
        self.one_user_vector = one_user_vector
        d = config.item_tower.dimension
        if d % config.members:
            raise ValueError(
                f"item_tower.dimension is {d}: it must be a multiple of {config.members} members"
            )
        self.config = config
        self.item_tower = ItemTower(config.item_tower, config.members)
        self.quantizer = ResidualQuantizer(d, config.quantizer)
        self.user_towers = nn.ModuleList(
            UserTower(d // config.members, d, config.user_tower) for _ in range(config.members)
        )
        half_lives = len(config.popularity_half_lives_days)
        near = len(config.neighbours.half_lives_days)
        self.interest_head = InterestHead(d, half_lives + near + 1, config.user_tower.scale)
        evidence = [
            nn.Linear(d // config.members, config.popularity_features + near)
            for _ in range(config.members)
        ]
        for linear in evidence:
            nn.init.zeros_(linear.weight)
            nn.init.constant_(linear.bias[: config.popularity_features], config.popularity_start)
            nn.init.constant_(linear.bias[config.popularity_features :], config.neighbour_start)
        self.evidence = nn.ModuleList(evidence)
        self.binary_bias = nn.Parameter(torch.zeros(()))

    @property
    def towers(self) -> list[UserTower]:
        """The members' user towers."""
        return cast(list[UserTower], list(self.user_towers))

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
        decay_BL1 = (OWN_DECAY**places_L).expand(history_code_BL.shape).unsqueeze(2)
        own_BC1 = code_mass(history_code_BL, decay_BL1, codes)
        return torch.cat(
            [code_popularity_BCP, neighbour_features(near_BCH), torch.log1p(4 * own_BC1)], dim=2
        )

    def encode(
        self,
        z_BLD: Tensor,
        age_BL: Tensor,
        known_BL: Tensor,
        shown: Sequence[Tensor | None] | None = None,
    ) -> list[EncodedHistory]:
        """Each member's view of the histories; `shown` is what their dropout leaves."""
        parts, bucket_BL = z_BLD.chunk(self.config.members, dim=2), age_buckets(age_BL)
        return [
            tower.encode(part_BLd, bucket_BL, known_BL, shown_Bh)
            for tower, part_BLd, shown_Bh in zip(
                self.towers, parts, shown or [None] * len(parts), strict=True
            )
        ]

    def code_views(self) -> CodeViews:
        """What the towers and the head make of the codebook as it is now."""
        codebook_CD = self.quantizer.codebooks_QCD[0]
        asking_CD = self._asking(codebook_CD)
        return CodeViews(
            [tower.queries(asking_CD) for tower in self.towers],
            self.interest_head.reads(codebook_CD),
            self.quantizer.centroids(),
        )

    def contexts(self, encoded: list[EncodedHistory], views: CodeViews) -> list[Tensor]:
        """What each member's attention reads for every query: (B, C or C + 1, d)."""
        return [
            tower.contexts(history, query_Cd)
            for tower, history, query_Cd in zip(self.towers, encoded, views.queries, strict=True)
        ]

    def user_vectors(self, encoded: list[EncodedHistory], contexts: list[Tensor]) -> list[Tensor]:
        """Each member's user vectors (B, C, d), from what `contexts` read."""
        codes = self.config.quantizer.codes
        vectors = []
        for tower, history, context_BCd in zip(self.towers, encoded, contexts, strict=True):
            if self.one_user_vector:
                vectors.append(tower(history, context_BCd[:, codes:]).expand(-1, codes, -1))
            else:
                vectors.append(tower(history, context_BCd))
        return vectors

    def log_interests(
        self,
        encoded: list[EncodedHistory],
        contexts: list[Tensor],
        views: CodeViews,
        evidence_BCF: Tensor,
    ) -> Tensor:
        """Log p(c | u): (B, C) float32."""
        state_BD = torch.cat([history.state_BD for history in encoded], dim=1).detach()
        logs_BC: Tensor = self.interest_head(
            self.interest_head.interest(state_BD),
            state_BD,
            torch.cat(contexts, dim=2)[:, : self.config.quantizer.codes].detach(),
            views.read_CD,
            views.centroid_CD,
            evidence_BCF,
        )
        return logs_BC

    def evidence_weights(self, encoded: list[EncodedHistory]) -> list[tuple[Tensor, Tensor]]:
        """Each member's weights of popularity features (B, P) and of neighbour features (B, H)."""
        p = self.config.popularity_features
        weights = [
            linear(history.state_BD).float()
            for linear, history in zip(self.evidence, encoded, strict=True)
        ]
        return [(w[:, :p], w[:, p:]) for w in weights]

    def forward(self, batch: Batch, generator: torch.Generator, drops: torch.Generator) -> Outcome:
        """All losses of one step; of several ranks, this one's part of them.

        Args:
            batch: the step, the same for all ranks.
            generator: on the CPU; draws negatives.
            drops: on the device; draws dropout.
        """
        weights = self.config.losses
        content_SD = self.item_tower.content(batch.items)
        id_SD = batch.items.id_SD
        with torch.no_grad():
            whole_SD = self.item_tower.whole(content_SD, id_SD)
            input_SD = self.quantizer.standardise(whole_SD)
        codes_SQ = self.quantizer.assign(input_SD)
        shape = (len(content_SD), self.config.members)
        shown_SM = _kept(shape, self.config.item_tower.id_dropout, drops)
        shown_SD = item_tower.partly_shown(id_SD, shown_SM, batch.clicked_S)
        z_SD = self.item_tower.whole(content_SD, shown_SD)
        code_S = codes_SQ[:, 0]
        target_B, mine, share = batch.target_B, batch.own(), batch.share
        size = len(target_B)
        shuffled_B = torch.randperm(size, generator=generator)
        shuffle_B = launches.on(z_SD.device, shuffled_B)
        evidence_BCF = self.interest_evidence(
            mine.code_popularity_GCP.index_select(0, mine.clock_B),
            mine.neighbour_code_BK,
            mine.neighbour_score_BKH,
            mine.history_code_BL,
        )
        users = self._users(batch, mine, z_SD, evidence_BCF, drops)
        log_interests_BC, interest_BD = users.log_interests_BC, users.interest_BD
        if interest_BD is None:
            interest_BD = self.interest_head.interest(users.state_BD.detach())
        if self.config.evidence_dropout:
            shown_B1 = share.of(_kept((size, 1), self.config.evidence_dropout, drops))
            weights_shown = [(p_BP * shown_B1, n_BH * shown_B1) for p_BP, n_BH in users.weights]
            users = users._replace(weights=weights_shown)
        code_B = code_S.index_select(0, target_B)
        items_loss, mass_BC, picked_B2D = self._item_loss(
            mine, users, z_SD, code_S, share.of(torch.stack([code_B, code_B[shuffle_B]], dim=1))
        )
        code_B = share.of(code_B)

        positive_BD = z_SD.index_select(0, target_B)
        quantized = self.quantizer(positive_BD, codes_SQ.index_select(0, target_B))
        reconstruction_BD = self.quantizer.reconstruct(quantized.sum_SD).float()
        subset = shuffle_B[:512]  # of a shuffled batch: enough contrast, bounded cost
        few_rows_B = batch.item_rows_S.index_select(0, target_B)[subset]
        wrong_BD = share.of(positive_BD.index_select(0, shuffle_B))
        matches = Matches(picked_B2D, share.of(positive_BD), wrong_BD)
        parts = {
            "items": items_loss,
            "interests": losses.interest_cross_entropy(log_interests_BC, code_B),
            "distillation": losses.distillation(log_interests_BC, mass_BC),
            "binary": losses.binary_cross_entropy(
                matches.true() + self.binary_bias, matches.drawn() + self.binary_bias
            ),
            "quantization": losses.quantization(
                positive_BD, reconstruction_BD, quantized.input_SD, quantized.sum_SD
            ),
            "shuffled_code": losses.shuffled_code_ranking(matches.margin()),
        }
        few_BD = positive_BD.index_select(0, subset)
        asking, right = _own_of(shuffled_B[:512], share, z_SD.device)
        parts["contrast"] = losses.contrastive(
            interest_BD.index_select(0, subset if asking is None else asking).float(),
            few_BD.detach(),
            few_rows_B,
            batch.log_frequency_S[target_B[subset]],
            1.0,
            right,
        )
        parts["reconstruction_contrast"] = losses.reconstruction_contrastive(
            few_BD, reconstruction_BD.index_select(0, subset), few_rows_B
        )
        if share.ranks > 1:
            parts = {name: value * _part(name, share) for name, value in parts.items()}
        if launches.few(z_SD.device):
            weight_P = launches.on(z_SD.device, torch.tensor([getattr(weights, n) for n in parts]))
            parts["loss"] = torch.stack(list(parts.values())) @ weight_P
        else:
            parts["loss"] = torch.stack([getattr(weights, n) * v for n, v in parts.items()]).sum()
        return Outcome(parts, whole_SD, input_SD, codes_SQ)

    def _users(
        self,
        batch: Batch,
        mine: Batch,
        z_SD: Tensor,
        evidence_BCF: Tensor,
        drops: torch.Generator,
    ) -> Users:
        """What is made of the histories of `mine`, this rank's part of the batch.

        Most are short and a few are long, so users are taken by length, a part at a time, each
        padded only to its own longest; or, where operations are to be few, all at once.
        """
        known_BL, share, events = mine.history_BL >= 0, batch.share, batch.own_events()
        # one gather of all events: each gather from z costs a gradient as long as z
        events_ED = z_SD.index_select(0, mine.history_BL.flatten()[mine.event_E])
        dropout = self.config.user_tower.dropout
        if launches.few(z_SD.device):
            events_ED = dropped(events_ED, dropout, events, 0)
            places_XD = events_ED.new_zeros(known_BL.numel(), events_ED.shape[1])
            places_XD = places_XD.index_copy(0, mine.event_E, events_ED)
            z_BLD = places_XD.unflatten(0, known_BL.shape)
            return self._users_together(z_BLD, mine.age_BL, known_BL, evidence_BCF, share)
        views = self.code_views()
        kept_ED = _kept((events.total, events_ED.shape[1]), dropout, drops)
        events_ED = events_ED * events.of(kept_ED) / (1 - dropout)
        events_ED = F.pad(events_ED, (0, 0, 1, 0))
        event_BL = (torch.cumsum(known_BL.flatten(), 0).view_as(known_BL)) * known_BL
        parts, shown = self._by_length(batch.history_BL >= 0, share)
        order_B = torch.cat(parts)
        states, vectors, logs, weights = [], [], [], []
        for part, shown_of_part in zip(parts, shown, strict=True):
            length = max(1, int(known_BL[part[-1]].sum()))
            encoded = self.encode(
                F.embedding(event_BL[part, -length:], events_ED),
                mine.age_BL[part, -length:],
                known_BL[part, -length:],
                shown_of_part,
            )
            contexts = self.contexts(encoded, views)
            states.append(torch.cat([history.state_BD for history in encoded], dim=1))
            vectors.append([v.float() for v in self.user_vectors(encoded, contexts)])
            evidence_bCF = evidence_BCF.index_select(0, part)
            logs.append(self.log_interests(encoded, contexts, views, evidence_bCF))
            weights.append(self.evidence_weights(encoded))
        back_B = torch.argsort(order_B)

        def whole(pieces: Iterable[Tensor]) -> Tensor:
            return torch.cat(list(pieces)).index_select(0, back_B)

        return Users(
            whole(states),
            parts,
            [list(member) for member in zip(*vectors, strict=True)],
            whole(logs),
            [
                (whole(w for w, _ in member), whole(w for _, w in member))
                for member in zip(*weights, strict=True)
            ],
        )

    def _by_length(
        self, known_BL: Tensor, share: Share
    ) -> tuple[list[Tensor], list[list[Tensor] | None]]:
        """Examples of the share by length, in parts, and what dropout shows of each.

        The parts are those of all ranks, and so are the draws; alone, the towers draw themselves.
        """
        parts = list(torch.argsort(known_BL.sum(1), stable=True).chunk(LENGTH_PARTS))
        if share.ranks == 1:
            return parts, [None] * len(parts)
        tower = self.config.user_tower
        found: list[Tensor] = []
        shown: list[list[Tensor] | None] = []
        for part_b in parts:
            place_b = torch.nonzero((part_b >= share.first) & (part_b < share.end)).squeeze(1)
            ones_bh = torch.ones(len(part_b), tower.hidden, device=part_b.device)
            of_members = [F.dropout(ones_bh, tower.dropout)[place_b] for _ in self.towers]
            if len(place_b):
                found.append(part_b[place_b] - share.first)
                shown.append(of_members)
        return found, shown

    def _users_together(
        self, z_BLD: Tensor, age_BL: Tensor, known_BL: Tensor, evidence_BCF: Tensor, share: Share
    ) -> Users:
        """The same of all members and users at once."""
        head, p = self.interest_head, self.config.popularity_features
        codebook_CD = self.quantizer.codebooks_QCD[0]
        made = users_together(
            self.towers, list(self.evidence), z_BLD, age_buckets(age_BL), known_BL,
            self._asking(codebook_CD), len(codebook_CD), self.config.user_tower.dropout, share,
        )  # fmt: skip
        popularity_MBP, near_MBH = made.evidence_MBF.tensor_split([p], dim=2)
        state_BD = made.state_BD.detach()
        interest_BD = head.interest(state_BD)
        log_interests_BC = head(
            interest_BD,
            state_BD,
            made.context_BCD.detach(),
            head.reads(codebook_CD),
            self.quantizer.centroids(),
            evidence_BCF,
        )
        return Users(
            made.state_BD,
            [],
            [[made.vectors_MBCd]],
            log_interests_BC,
            [(popularity_MBP, near_MBH)],
            interest_BD,
        )

    def _asking(self, codebook_CD: Tensor) -> Tensor:
        """What asks the histories: the codewords, and with one user vector another beside them."""
        return F.pad(codebook_CD, (0, 0, 0, 1)) if self.one_user_vector else codebook_CD

    def _item_loss(
        self, batch: Batch, users: Users, z_SD: Tensor, code_S: Tensor, picked_BX: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """-log p(i | u) among the negatives, summed over members, and the codes' shares of it.

        Beside them the user vectors (B, X, D) of `picked_BX`.
        """
        kept_s = batch.negative_s
        order_S = kept_s[torch.argsort(code_S[kept_s], stable=True)]
        # the last one answers for "none", which all items are that are no negatives
        back_S = torch.full((len(code_S) + 1,), -1, device=order_S.device)
        back_S[order_S] = torch.arange(len(order_S), device=order_S.device)
        # what the user has is never an answer, unless it is the target
        old_BL = batch.history_BL.masked_fill(batch.history_BL == batch.target_B.unsqueeze(1), -1)
        sizes_C = code_S.new_zeros(self.config.quantizer.codes)
        layout = Layout(
            sizes_C=sizes_C.scatter_add_(0, code_S[order_S], torch.ones_like(order_S)),
            clocks=batch.clocks,
            features_GSP=batch.popularity_GSP.index_select(1, order_S),
            log_q_S=batch.log_q_S[order_S],
            near_BK=back_S[batch.neighbour_BK],
            excluded_BL=back_S[old_BL],
            target_B=back_S[batch.target_B],
            parts=users.parts,
            picked_BX=picked_BX,
        )
        items_SD = z_SD.index_select(0, order_S)
        members = self.config.members
        if launches.few(z_SD.device):
            ((vectors_MBCd,),), ((popularity_MBP, near_MBH),) = users.vectors, users.weights
            near_BKM = batch.neighbour_score_BKH @ near_MBH.permute(1, 2, 0)
            tiles = lay_out(layout, items_SD.shape[1] // members)
            with torch.autocast("cuda", torch.bfloat16, enabled=z_SD.is_cuda):
                loss, mass_BC, picked_MBVD = tiled_softmax(
                    vectors_MBCd,
                    items_SD.unflatten(1, (members, -1)).transpose(0, 1),
                    popularity_MBP,
                    near_BKM.permute(2, 0, 1),
                    tiles,
                )
            return loss, mass_BC, picked_MBVD.permute(1, 2, 0, 3).flatten(2)
        results = [
            candidate_softmax(
                vectors,
                items_Sd.contiguous(),
                popularity_BP,
                (batch.neighbour_score_BKH @ near_BH.unsqueeze(2)).squeeze(2),
                layout,
            )
            for vectors, items_Sd, (popularity_BP, near_BH) in zip(
                users.vectors, items_SD.chunk(members, dim=1), users.weights, strict=True
            )
        ]
        all_losses, masses, picked = zip(*results, strict=True)
        picked_BXD = torch.cat(picked, dim=2)
        return torch.stack(all_losses).sum(), torch.stack(masses).mean(0), picked_BXD


def _part(name: str, share: Share) -> float:
    """What a rank's loss counts in the sum over all ranks."""
    if name in ("quantization", "reconstruction_contrast"):  # each takes them of the whole batch
        return 1 / share.ranks
    if name == "contrast":  # it is a part of a mean over all already
        return float(share.weight > 0)
    return share.weight


def _own_of(
    chosen_b: Tensor, share: Share, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Which examples of the share are chosen, and where among the chosen; alone, all are."""
    if share.ranks == 1:
        return None, None
    where = torch.nonzero((chosen_b >= share.first) & (chosen_b < share.end)).squeeze(1)
    return launches.on(device, chosen_b[where] - share.first), launches.on(device, where)


def _kept(shape: tuple[int, ...], dropout: float, generator: torch.Generator) -> Tensor:
    """1 where a value survives dropout, else 0; where the generator is."""
    kept = torch.rand(shape, generator=generator, device=generator.device) >= dropout
    return kept if launches.few(generator.device) else kept.float()
