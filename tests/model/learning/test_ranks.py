"""Several ranks that share micro-batches learn what one learns that has them whole."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import launches
from model.learning import candidates
from model.learning.config import LearnerConfig
from model.learning.errors import NotFiniteError
from model.learning.learner import Learner
from model.network import item_tower, quantizer, user_tower
from model.network.quantizer import QuantizerConfig, ResidualQuantizer
from model.network.sparc_config import SparcConfig
from model.ranks import Ranks
from model.tables import cooccurrence
from tests.model.rank_group import together
from tests.model.synthetic_stream import make_items, make_sequences

CONFIG = LearnerConfig(
    model=SparcConfig(
        item_tower=item_tower.ItemTowerConfig(dimension=16),
        quantizer=quantizer.QuantizerConfig(codes=16, dead_share=0.3),
        user_tower=user_tower.UserTowerConfig(hidden=24),
        neighbours=cooccurrence.CooccurrenceConfig(slots=8, answers=16),
        evidence_dropout=0.2,
    ),
    replay_capacity=512,
    chunk=16,
    step=64,
    session_dropout=0.3,
)
UNMOVED = ("keys.bias", "content.2.bias")
"""The softmaxes behind them do not see them: their gradient is nothing but rounding."""


def learnt(ranks: Ranks, config: LearnerConfig = CONFIG, few: bool = False) -> dict[str, Any]:
    """A learner's arrays after some micro-batches, with new items in mid-stream."""
    launches.ALWAYS, candidates.UNSEEN = few, 64
    torch.set_num_threads(1)
    items = make_items(120)
    stream = make_sequences(items, 330)
    learner = Learner(config, ranks=ranks)
    learner.list_items(items[:80])
    # one of them is smaller than the group
    ends = [60, 120, 121, 210, 330]
    losses = {}
    for number, (first, end) in enumerate(zip([0, *ends], ends, strict=False)):
        learner.list_items(items[80 + 5 * number : 85 + 5 * number])
        losses = learner.learn(stream[first:end])
    state = learner.state()
    (rows,) = state.rows
    arrays = {name: x.numpy() for name, x in (state.dense | rows).items()}
    return {"arrays": arrays, "losses": losses, "counters": state.meta["counters"]}


def digest(found: dict[str, Any]) -> str:
    whole = hashlib.sha256()
    for name, x in sorted(found["arrays"].items()):
        whole.update(name.encode() + np.ascontiguousarray(x).tobytes())
    return whole.hexdigest()


def ways(ranks: Ranks) -> list[dict[str, Any]]:
    """A catalogue taken whole, a sampled one, and the way of a GPU."""
    return [
        learnt(ranks),
        learnt(ranks, dataclasses.replace(CONFIG, candidates=40)),
        learnt(ranks, few=True),
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    (found,) = together(tmp_path_factory.mktemp("alone"), 1, ways)
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_learn_what_one_learns(
    size: int, alone: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Codes, revived codes, counts and drawn samples exactly, what is learnt within 1e-5."""
    found = together(tmp_path, size, ways)
    for way, one in enumerate(alone):
        assert len({digest(f[way]) for f in found}) == 1, "all hold one model, bit for bit"
        arrays = found[0][way]["arrays"]
        assert arrays.keys() == one["arrays"].keys()
        for name, x in one["arrays"].items():
            if x.dtype.kind == "f":
                if not name.endswith(UNMOVED):
                    near = 1e-5 * max(1.0, float(np.abs(x).max(initial=0)))  # sums of many, too
                    np.testing.assert_allclose(arrays[name], x, rtol=1e-5, atol=near, err_msg=name)
            else:
                np.testing.assert_array_equal(arrays[name], x, err_msg=name)
        assert found[0][way]["counters"] == one["counters"]
        assert one["counters"]["revived"] > 10
        for name, loss in one["losses"].items():
            assert found[0][way]["losses"][name] == pytest.approx(loss, rel=1e-5), name


def codebooks(ranks: Ranks) -> list[np.ndarray]:
    """First codebooks of many items, and moved ones, of which some codes were revived."""
    draws = torch.Generator().manual_seed(0)
    z_SD = torch.randn(3000, 16, generator=draws)
    quantizer = ResidualQuantizer(16, QuantizerConfig(dead_share=0.8))
    quantizer.start(z_SD, draws, ranks=ranks)
    revived = 0
    for _ in range(5):
        z_SD = z_SD * 0.9 + 0.5 * torch.randn(3000, 16, generator=draws)
        codes_SQ = quantizer.assign(quantizer.standardise(z_SD))
        revived += int(quantizer.update(z_SD, codes_SQ, draws, ranks=ranks))
    return [np.array(revived), *(x.numpy() for x in quantizer.state_dict().values())]


def test_codebooks_of_ranks_are_those_of_one(tmp_path: Path) -> None:
    """To the bit: the first ones follow from many rounds, each of which widens what differs."""
    expected = together(tmp_path, 1, codebooks)[0]
    assert expected[0] > 20
    for found in together(tmp_path, 3, codebooks):
        for x, y in zip(expected, found, strict=True):
            np.testing.assert_array_equal(y, x)


def spoilt(ranks: Ranks) -> str:
    """What a rank says of a micro-batch whose loss is not finite in another's share."""
    learner = Learner(CONFIG, ranks=ranks)
    items = make_items(40)
    learner.list_items(items)
    stream = make_sequences(items, 64)
    learner.learn(stream[:32])
    row = int(learner._tables.catalogue.rows(np.array([stream[-1].target]))[0])
    learner._tables.ids.weight_ND[row] = float("nan")
    with pytest.raises(NotFiniteError) as caught:
        learner.learn(stream[32:])
    return str(caught.value)


def test_what_cannot_be_learnt_is_known_to_all_ranks(tmp_path: Path) -> None:
    told = together(tmp_path, 2, spoilt)
    assert "not finite" in told[0] and told[0] == told[1]


def said(ranks: Ranks) -> list[Any]:
    """Messages of any length to all, and from all."""
    heard = [ranks.tell(text if ranks.leads else None) for text in (b"", b"one", b"x" * 70_000)]
    return [heard, ranks.collect(b"r" * ranks.rank)]


def test_the_leader_tells_all_and_hears_all(tmp_path: Path) -> None:
    leader, *others = together(tmp_path, 3, said)
    assert leader == [[b"", b"one", b"x" * 70_000], [b"", b"r", b"rr"]]
    assert others == [[leader[0], []]] * 2


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 400])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_are_the_whole_once(count: int, size: int) -> None:
    shares = [Ranks(rank, size).share(count) for rank in range(size)]
    taken = [n for s in shares if s.weight for n in range(s.first, s.end)]
    assert taken == list(range(count))
    assert count == 0 or sum(s.weight for s in shares) == pytest.approx(1)
    assert all(s.end > s.first for s in shares if count), "each takes part in each collective"
