"""A version is the same however it is loaded: from scratch, or from any other that is held."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import indexer.building.rebuild as rules
import indexer.snapshots.item_table as table_module
import indexer.snapshots.learnt_lists as learnt_module
import model.artifacts.chain as chain_module
from indexer.catalogue.property_reader import read_columns
from indexer.errors import SnapshotError
from indexer.indexing.config import IndexerConfig
from indexer.snapshots.pointer import snapshot_path
from indexer.snapshots.snapshot import Snapshot
from indexer.snapshots.snapshot_reading import load_served, load_snapshot, versions
from model.artifacts.manifest import sha256
from model.artifacts.verified_files import VerifiedFiles
from streaming.items import Item, Withdrawal
from tests.indexer.driving import announce, catch_up, items_of, running
from tests.indexer.same_snapshots import same_lists, same_snapshots
from tests.indexer.stand_in import StandIn


def grown(model: StandIn, ids: list[int], rng: np.random.Generator) -> StandIn:
    """The model after it has learnt further items."""
    new = [i for i in ids if i not in set(model.item_ids_N.tolist())]
    vectors = rng.normal(size=(len(new), model.dimension))
    return StandIn(
        np.concatenate([model.item_ids_N, np.array(new, np.int64)]),
        np.concatenate([model.vectors_ND, vectors.astype(np.float32)]),
        model.centroids_CD,
    )


class Shop:
    """Says and learns things at random, and keeps what must be true."""

    def __init__(self, data, data_dir: Path, indexer) -> None:
        self.data, self.data_dir, self.indexer = data, data_dir, indexer
        self.rng = np.random.default_rng(data.draw(st.integers(0, 99)))
        self.model = StandIn.make(40, codes=4)
        self.listed = {one.item_id: one for one in items_of(self.model)[:30]}
        announce(indexer, list(self.listed.values()))
        self.withdrawn: set[int] = set()
        self.number, self.learnt = 0, 30

    def say(self) -> None:
        """Items listed, listed again with another title, withdrawn, or listed after that."""
        said: list[Item | Withdrawal] = []
        for _ in range(self.data.draw(st.integers(0, 4))):
            some = self.data.draw(st.sampled_from(sorted({*self.listed, *range(900, 910)})))
            if self.data.draw(st.booleans()):
                title = f"title {self.data.draw(st.integers(0, 3))}"
                said.append(Item(some, title, "c", "x", 5))
                self.listed[some] = said[-1]
                self.withdrawn.discard(some)
            else:
                said.append(Withdrawal(some))
                self.listed.pop(some, None)
                self.withdrawn.add(some)
        announce(self.indexer, said)
        self.indexer.append_waiting()

    def learn(self) -> None:
        """The next handover: a delta or a base, of a model that is further in some way."""
        draw = self.data.draw
        share, step = draw(st.sampled_from([(0.0, 0), (0.1, 0.1), (0.5, 0.5), (1.0, 1.0)]))
        if draw(st.booleans()):  # it has read what was listed
            self.model = grown(self.model, sorted(self.listed), self.rng)
            self.learnt = self.indexer.store.position[0]
        self.model = self.model.moved(step, draw(st.integers(0, 99)), share)
        if draw(st.booleans()):
            centroids = self.model.centroids_CD * np.float32(draw(st.sampled_from([0.9, 1.2])))
            self.model = StandIn(self.model.item_ids_N, self.model.vectors_ND, centroids)
        after = self.number if self.number and draw(st.booleans()) else None
        self.number += 1
        self.model.hand_over(self.data_dir, self.number, {"0": self.learnt}, after)
        catch_up(self.indexer)

    def check(self, snapshot: Snapshot) -> None:
        """What is served is what was learnt and said."""
        known = set(self.model.item_ids_N.tolist())
        there = (known | self.listed.keys()) - self.withdrawn
        ids = snapshot.lists.item_ids_N
        assert sorted(ids[ids >= 0].tolist()) == sorted(there)
        for row in snapshot.describe(sorted(there)):
            item = self.listed.get(row["item_id"])
            assert row["title"] == (item.title if item else "")


@settings(
    deadline=None,
    max_examples=25,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_version_is_the_same_however_it_is_loaded(monkeypatch, data):
    monkeypatch.setattr(rules, "FEW", 3)
    monkeypatch.setattr(chain_module, "FLOOR", data.draw(st.sampled_from([0, 1 << 20])))
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        with running(data_dir, IndexerConfig(max_backlog=99, rebuild_rows=8)) as indexer:
            shop, verified = Shop(data, data_dir, indexer), VerifiedFiles()
            held, loaded = None, []
            for _ in range(data.draw(st.integers(1, 6))):
                shop.say()
                shop.learn()
                if data.draw(st.booleans()):
                    shop.say()
                if data.draw(st.booleans()):  # else the reader falls behind
                    held = load_served(data_dir, StandIn.load, held, verified)
                    loaded.append(held)
            served = load_served(data_dir, StandIn.load)
            same_snapshots(served, load_served(data_dir, StandIn.load, held, verified))
            answering = served.without(read_columns(data_dir).unlisted)  # as a `Retriever` does
            shop.check(answering)
            same_lists(answering, indexer.served_version.snapshot)
            for version in versions(data_dir):  # also an older one from a newer one
                path = data_dir / snapshot_path(version)
                scratch = load_snapshot(path, StandIn.load)
                for other in loaded:
                    same_snapshots(scratch, load_snapshot(path, StandIn.load, held=other))


def test_a_reader_reads_and_verifies_nothing_that_it_holds(tmp_path, monkeypatch):
    read, hashed = [], []

    def spied(module, name):
        original = getattr(module, name)

        def spy(path, *args, **kwargs):
            read.append(Path(path).name)
            return original(path, *args, **kwargs)

        monkeypatch.setattr(module, name, spy)

    def hash_of(path: Path) -> str:
        hashed.append(path.name)
        return sha256(path)

    model, verified = StandIn.make(400, codes=8), VerifiedFiles(hash_of)
    with running(tmp_path) as indexer:
        announce(indexer, items_of(model))
        model.hand_over(tmp_path, 1, {"0": 400})
        catch_up(indexer)
        held = load_served(tmp_path, StandIn.load, None, verified)
        model.moved(0.01, 2, share=0.05).hand_over(tmp_path, 2, {"0": 400}, after=1)
        announce(indexer, [Item(900_000, "new", listed_at=5)])
        catch_up(indexer)
        assert indexer.status().rebuilt_codes == 0
    hashed.clear()
    spied(learnt_module, "open_rows")
    spied(table_module, "read_batch")
    new = load_served(tmp_path, StandIn.load, held, verified)
    assert new.version == 2
    assert read == ["catalogue-00000002.arrow"]
    assert sorted(hashed) == [
        "catalogue-00000002.arrow",
        "changes.safetensors",
        "items-00000002.safetensors",
        "placed.arrow",
        "weights.safetensors",
    ]
    same_snapshots(new, load_snapshot(new.path, StandIn.load))


def test_a_version_that_is_removed_goes_on_answering_where_it_is_loaded(tmp_path):
    model = StandIn.make(200, codes=4)
    with running(tmp_path, IndexerConfig(keep_versions=1)) as indexer:
        announce(indexer, items_of(model))
        model.hand_over(tmp_path, 1, {"0": 200})
        catch_up(indexer)
        held = load_served(tmp_path, StandIn.load)
        ids = model.item_ids_N
        before, told = held.lists.vectors_of(ids), held.describe(ids.tolist())
        for number in range(2, 7):
            model = model.moved(0.5, number, share=0.6)
            model.hand_over(tmp_path, number, {"0": 200})
            catch_up(indexer)
        assert 1 not in versions(tmp_path)
    assert np.array_equal(held.lists.vectors_of(ids), before)
    assert held.describe(ids.tolist()) == told
    new = load_served(tmp_path, StandIn.load, held)  # over versions that are gone
    same_snapshots(new, load_snapshot(new.path, StandIn.load))


def test_a_reader_that_meets_a_damaged_file_keeps_what_it_holds(tmp_path):
    model = StandIn.make(200, codes=4)
    with running(tmp_path) as indexer:
        model.hand_over(tmp_path, 1)
        catch_up(indexer)
        held, verified = None, VerifiedFiles()
        held = load_served(tmp_path, StandIn.load, held, verified)
        model.moved(0.1, 2, share=0.1).hand_over(tmp_path, 2, after=1)
        catch_up(indexer)
        path = tmp_path / snapshot_path(2) / "items-00000002.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.unlink()  # as another file: the trainer's is whole
        path.write_bytes(content)
        with pytest.raises(SnapshotError, match="items-00000002"):
            load_served(tmp_path, StandIn.load, held, verified)
        model.moved(0.2, 3, share=0.1).hand_over(tmp_path, 3, after=2)
        catch_up(indexer)
        new = load_served(tmp_path, StandIn.load, held, verified)
        assert new.version == 3
        same_snapshots(new, load_snapshot(new.path, StandIn.load))
