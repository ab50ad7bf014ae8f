from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.artifacts.manifest import Manifest, publish, verify
from model.histories import History
from model.learning.config import LearnerConfig
from model.learning.learner import Learner
from model.network import item_tower, quantizer
from model.network.sparc_config import SparcConfig
from model.retrieval.retrieval_model import WEIGHTS, ModelError, RetrievalModel
from model.tables import cooccurrence
from streaming.items import Item
from tests.model.synthetic_stream import DAY_MS, make_items, make_sequences

NOW = np.array([1100 * DAY_MS])


@pytest.fixture(scope="module")
def learner() -> Iterator[Learner]:
    items = make_items(90)
    learner = Learner(
        LearnerConfig(
            model=SparcConfig(
                item_tower=item_tower.ItemTowerConfig(dimension=16),
                quantizer=quantizer.QuantizerConfig(codes=8),
                neighbours=cooccurrence.CooccurrenceConfig(slots=8, answers=16),
            ),
            chunk=16,
        )
    )
    learner.list_items(items)
    sequences = make_sequences(items, 640)
    for a in range(0, len(sequences), 64):
        learner.learn(sequences[a : a + 64])
    yield learner


def history(*places: int) -> History:
    ids = [item.item_id for item in make_items(90)]
    return History([ids[p] for p in places], [1090 * DAY_MS + p for p in range(len(places))])


def test_a_published_model_answers_like_the_learners_own(learner: Learner, tmp_path: Path) -> None:
    export = learner.export()

    def write(directory: Path) -> None:
        save_file(export.tensors, directory / WEIGHTS)
        export.segment.save(directory / "items.safetensors")

    facts = {"model": json.loads(json.dumps(export.facts)), "segments": ["items.safetensors"]}
    publish(tmp_path / "1", "handover", facts, write)
    loaded = RetrievalModel.load(tmp_path / "1", verify(tmp_path / "1", "handover"))
    own = learner.retrieval_model()
    assert np.array_equal(loaded.vectors_ND, own.vectors_ND)
    assert np.array_equal(loaded.codes_NQ, own.codes_NQ)
    codes = np.arange(8)[None]
    for model in (loaded, own):
        assert model.dimension == model.vectors_ND.shape[1]
        assert (model.first_level_codes, model.levels) == (8, 3)
        assert model.centroids_CD.shape == (8, 16)
    answers = [m.user_vectors(m.encode([history(1, 6)], NOW), codes) for m in (loaded, own)]
    assert np.array_equal(*answers)


def test_a_model_is_loaded_without_torchs_compiler(learner: Learner, tmp_path: Path) -> None:
    # which takes a second and 80 MB, and is imported by what initialises a module on no device
    export = learner.export()

    def write(directory: Path) -> None:
        save_file(export.tensors, directory / WEIGHTS)
        export.segment.save(directory / "items.safetensors")

    facts = {"model": export.facts, "segments": ["items.safetensors"]}
    publish(tmp_path / "1", "handover", facts, write)
    code = (
        "import sys; from pathlib import Path\n"
        "import numpy as np\n"
        "from model.artifacts.manifest import verify\n"
        "from model.histories import History\n"
        "from model.retrieval.retrieval_model import RetrievalModel\n"
        "at = Path(sys.argv[1])\n"
        "model = RetrievalModel.load(at, verify(at, 'handover'))\n"
        "model.encode([History([], []), History([], [])], np.array([0, 0]))\n"
        "print([name for name in ('sympy', 'torch._dynamo') if name in sys.modules])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "1")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "[]\n"


def test_embedding_the_catalogue_gives_the_stored_vectors_and_codes(learner: Learner) -> None:
    model = learner.retrieval_model()
    vectors, codes = model.embed(make_items(90))
    assert np.allclose(vectors, model.vectors_ND, atol=1e-5)
    assert np.array_equal(codes, model.codes_NQ)


def test_an_unseen_item_lies_where_it_would_lie_once_listed(learner: Learner) -> None:
    new = Item(999_999, "soap mask no 3", "1")
    vectors, codes = learner.retrieval_model().embed([new])
    other = Learner.restore(learner.config, learner.state())
    other.list_items([new])
    model = other.retrieval_model()
    # the same words are a little less rare once it is listed
    assert np.allclose(model.vectors_ND[-1], vectors[0], atol=0.01)
    assert np.array_equal(model.codes_NQ[-1], codes[0])


def test_an_unseen_item_lies_near_items_of_its_title_and_category(learner: Learner) -> None:
    model = learner.retrieval_model()
    z = model.quantizer_space(model.embed(make_items(90))[0])
    new = model.quantizer_space(model.embed([Item(123_456, "soap mask no 5", "1")])[0])[0]
    distance = np.linalg.norm(z - new, axis=1).reshape(-1, 5).mean(0)
    assert distance.argmin() == 0  # items of category 1 are 0, 5, 10, ...


def test_interests_are_probabilities_also_for_an_empty_history(learner: Learner) -> None:
    model = learner.retrieval_model()
    encoded = model.encode([history(), history(0, 5, 10)], np.repeat(NOW, 2))
    logs = model.log_interests(encoded)
    assert logs.shape == (2, 8) and logs.dtype == np.float32
    assert np.allclose(np.exp(logs).sum(1), 1, atol=1e-5)
    vectors = model.user_vectors(encoded, np.array([[0, 3], [7, 1]]))
    assert vectors.shape == (2, 2, model.dimension) and np.isfinite(vectors).all()


def test_a_users_answer_does_not_depend_on_who_is_asked_with_them(learner: Learner) -> None:
    model = learner.retrieval_model()
    many = [history(1, 2, 3), history(), history(*range(30))]
    together = model.encode(many, np.repeat(NOW, 3))
    codes = np.tile(np.arange(8), (3, 1))
    vectors = model.user_vectors(together, codes)
    for b, one in enumerate(many):
        alone = model.encode([one], NOW)
        assert np.allclose(model.log_interests(alone)[0], model.log_interests(together)[b],
                           atol=1e-5)  # fmt: skip
        assert np.allclose(model.user_vectors(alone, codes[:1])[0], vectors[b], atol=1e-5)


def test_what_a_neighbour_and_the_prior_add_is_said_beside_the_vectors(learner: Learner) -> None:
    model = learner.retrieval_model()
    histories = [history(0, 5), history()]
    together = model.encode(histories, np.repeat(NOW, 2))
    ids_BM, adds_BM = model.near(together)
    assert (adds_BM[0][ids_BM[0] >= 0] > 0).all() and (ids_BM[1] == -1).all()
    ids, adds = model.near(model.encode(histories[:1], NOW))
    assert np.array_equal(ids[0], ids_BM[0, : ids.shape[1]])
    assert np.allclose(adds[0], adds_BM[0, : ids.shape[1]], atol=1e-5)
    assert not set(ids[0].tolist()) & set(histories[0].items)
    prior_ids, features_nP = model.prior()
    p = learner.config.model.popularity_features
    assert features_nP.shape == (len(prior_ids), p) and (features_nP >= 0).all()
    assert set(prior_ids.tolist()) == set(model.item_ids_N[model.items.events_N > 0].tolist())
    assert model.prior_weights(together).shape == (2, p)
    hot = model.hot_items(5)
    mean_n = dict(zip(prior_ids.tolist(), features_nP.mean(axis=1), strict=True))
    assert min(mean_n[i] for i in hot.tolist()) > np.median(list(mean_n.values()))


def test_facts_of_older_models_load_unless_they_ask_for_another_merge(learner: Learner) -> None:
    export = learner.export()
    older = export.facts | {"normalise_lists": False, "weigh_codes": False}
    assert len(export._replace(facts=older).model().item_ids_N) == 90
    for name in ("normalise_lists", "weigh_codes"):
        with pytest.raises(ModelError, match=f"{name}.*train the model anew"):
            export._replace(facts=older | {name: True}).model()


def test_facts_of_older_models_hold_settings_that_are_constants_now(learner: Learner) -> None:
    export = learner.export()
    older: dict[str, Any] = json.loads(json.dumps(export.facts["config"]))
    older["contrast_temperature"] = 0.1
    older["key_dimension"] = 77  # whatever it was: nothing depends on it any more
    older["losses"]["commitment"] = 0.1
    older["quantizer"]["decay"] = 0.95
    older["user_tower"]["heads"] = 4
    older["item_tower"] |= {"content_scale": 0.035, "id_scale": 0.035}
    older["item_tower"]["features"] = {
        "title_words": 16, "title_buckets": 16384, "category_buckets": 1024
    }  # fmt: skip

    def made(config: Any) -> RetrievalModel:
        return export._replace(facts=export.facts | {"config": config}).model()

    model = made(older)
    assert np.array_equal(model.vectors_ND, learner.retrieval_model().vectors_ND)
    older["user_tower"]["heads"] = 2
    with pytest.raises(ModelError, match=r"user_tower\.heads is 2 there.*always 4.*train anew"):
        made(older)
    with pytest.raises(ModelError):
        made(5)


def test_corrupt_or_foreign_weights_are_refused_by_name(learner: Learner, tmp_path: Path) -> None:
    export = learner.export()
    broken = dict(export.tensors)
    broken["words_WD"] = export.tensors["words_WD"].clone()
    broken["words_WD"][3, 3] = float("nan")
    with pytest.raises(ModelError, match="'words_WD' holds NaN"):
        export._replace(tensors=broken).model()
    missing = {n: v for n, v in export.tensors.items() if n != "words_WD"}
    with pytest.raises(ModelError, match="words_WD"):
        export._replace(tensors=missing).model()
    config = json.loads(json.dumps(export.facts["config"]))
    config["quantizer"]["codes"] = 16
    with pytest.raises(ModelError, match="do not fit"):
        export._replace(facts=export.facts | {"config": config}).model()
    (tmp_path / WEIGHTS).write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="not readable"):
        RetrievalModel.load(tmp_path, Manifest("handover", {"model": export.facts}, {}, ""))
    with pytest.raises(ModelError, match="describe no model"):
        RetrievalModel.load(tmp_path, Manifest("handover", {}, {}, ""))


def test_exported_tensors_survive_safetensors(learner: Learner, tmp_path: Path) -> None:
    tensors = learner.export().tensors
    save_file(tensors, tmp_path / "w.safetensors")
    back = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(back[name], value) for name, value in tensors.items())


def test_a_model_without_any_item_loads_and_embeds() -> None:
    model = Learner(LearnerConfig()).retrieval_model()
    assert model.vectors_ND.shape[0] == 0
    encoded = model.encode([History([1], [2])], NOW)
    assert np.isfinite(model.user_vectors(encoded, np.array([[0]]))).all()
    assert model.embed([Item(4)])[0].shape == (1, model.dimension)
