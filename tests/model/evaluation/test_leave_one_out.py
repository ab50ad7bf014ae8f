from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.evaluation import leave_one_out
from model.evaluation.online_model import Answers
from model.evaluation.protocol import ProtocolError, Queries
from streaming.bounds import DAY_MS


def inter_file(folder: Path, users: int = 30, items: int = 70) -> Path:
    """Everyone walks through the items one by one, from another start and for another time."""
    path = folder / "log.inter"
    rows = [f"u{u}\ti{(3 * u + n) % items}\n" for u in range(users) for n in range(3 + u % 5)]
    path.write_text("user_id:token\titem_id:token\n" + "".join(rows))
    return path


def test_a_user_is_split_into_training_validation_and_test(tmp_path: Path):
    data = leave_one_out.read_sequences(inter_file(tmp_path))
    training = data.training()
    for user, items in enumerate(data.items_of):
        mine = training.users_E == user
        assert training.items_E[mine].tolist() == items[:-2]
        for split, held in (("validation", 2), ("test", 1)):
            parts = list(data.queries(split, most=7))
            histories = [h for queries, _ in parts for h in queries.histories]
            targets = np.concatenate([targets for _, targets in parts])
            assert histories[user].items == items[:-held]
            assert targets[user] == items[-held]
            day = parts[0][0].day
            assert histories[user].times[-1] == (day - 1) * DAY_MS
        assert (training.days_E[mine] < day - 1).all()


class _Clairvoyant:
    """Ranks the target of each user at a rank of its choice, a better one after each epoch."""

    def __init__(self, data: leave_one_out.Sequences, ranks: list[int]) -> None:
        self.data, self.ranks, self.epochs = data, ranks, 0

    def observe(self, events) -> None:
        self.events = len(events)

    def epoch(self) -> float:
        self.epochs += 1
        return 0.0

    def answer(self, queries: Queries) -> Answers:
        rank = self.ranks[min(self.epochs, len(self.ranks)) - 1]
        rows = []
        for user, history in zip(queries.users_B.tolist(), queries.histories, strict=True):
            target = self.data.items_of[user][len(history.items)]
            others = [
                i.item_id for i in self.data.items if i.item_id not in {target, *history.items}
            ]
            rows.append([*others[: rank - 1], target, *others[rank - 1 : 49]])
        items_BK = np.array(rows)
        return Answers(items_BK, np.zeros(items_BK.shape, dtype=np.float32))


def test_hit_rate_and_ndcg_follow_the_rank_of_the_target(tmp_path: Path):
    data = leave_one_out.read_sequences(inter_file(tmp_path))
    result = leave_one_out.evaluate(_Clairvoyant(data, [7]), data, "test")
    assert result["hr@5"] == 0.0
    assert result["hr@10"] == result["hr@50"] == 1.0
    assert result["ndcg@10"] == pytest.approx(1 / np.log2(8))


def test_training_stops_when_the_validation_does_and_keeps_the_best_epoch(tmp_path: Path):
    data = leave_one_out.read_sequences(inter_file(tmp_path))
    model = _Clairvoyant(data, [9, 3, 5, 6, 7, 8, 9, 9, 9, 9])
    best, curve = leave_one_out.fit(model, data, patience=3)
    assert best.epochs == 2
    assert len(curve) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user_id:token\tthing:token\n1\t2\n", "line 1: no columns"),
        ("user_id:token\titem_id:token\n1\t2\n1\n", "line 3: 1 fields"),
        ("user_id:token\titem_id:token\n1\t2\n1\t3\n", "user '1' has 2 events"),
        ("user_id:token\titem_id:token\n", "no interactions"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, text: str, message: str):
    path = tmp_path / "bad.inter"
    path.write_text(text)
    with pytest.raises(ProtocolError, match=message):
        leave_one_out.read_sequences(path)
