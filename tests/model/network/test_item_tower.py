from __future__ import annotations

import pytest
import torch

from model import launches
from model.network.item_tower import (
    ItemInputs,
    ItemTower,
    ItemTowerConfig,
    Titles,
    partly_shown,
)

IDF_W = torch.tensor([0.0, 1.0, 2.0, 3.0])
WORDS_ST = torch.tensor([[1, 2, 0], [0, 0, 0], [3, 3, 2]])
CATEGORY_S = torch.tensor([1, 0, 1])


@pytest.mark.parametrize("few", [False, True], ids=["least work", "few operations"])
def test_content_and_its_gradients_are_those_of_the_plain_sums(
    few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launches, "ALWAYS", few)
    torch.manual_seed(0)
    tower = ItemTower(ItemTowerConfig(dimension=4))
    torch.nn.init.normal_(tower.no_title_D)
    words_WD = torch.randn(4, 4, requires_grad=True)
    categories_KD = torch.randn(2, 4, requires_grad=True)
    inputs = ItemInputs(
        torch.zeros(3, 4), Titles(WORDS_ST, IDF_W), words_WD, CATEGORY_S, categories_KD
    )
    weights = [torch.tensor([1.0, 2.0]), torch.tensor([]), torch.tensor([3.0, 3.0, 2.0])]
    titles = [
        (weight / weight.norm()) @ words_WD[words[words > 0]] if len(weight) else tower.no_title_D
        for words, weight in zip(WORDS_ST, weights, strict=True)
    ]
    expected_SD = torch.stack(titles) + categories_KD[CATEGORY_S]
    content_SD = tower.content(inputs)
    assert torch.allclose(content_SD, expected_SD, atol=1e-6)
    told_SD = torch.randn(3, 4)
    learnt = (words_WD, categories_KD, tower.no_title_D)
    own = torch.autograd.grad((told_SD * content_SD).sum(), learnt)
    plain = torch.autograd.grad((told_SD * expected_SD).sum(), learnt)
    for one, other in zip(own, plain, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_each_member_sees_what_it_is_shown_and_what_is_not_to_learn_is_seen_all_the_same() -> None:
    id_SD = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    shown_SM = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    seen_SD = partly_shown(id_SD, shown_SM, torch.tensor([True, False]))
    assert seen_SD.tolist() == [[1.0, 0.0], [3.0, 4.0]]
    seen_SD.sum().backward()
    assert id_SD.grad is not None
    assert id_SD.grad.tolist() == [[1.0, 0.0], [0.0, 0.0]]
