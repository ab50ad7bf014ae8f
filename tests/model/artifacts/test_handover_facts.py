from __future__ import annotations

import pytest

from model.artifacts.handover_facts import HandoverFacts
from model.artifacts.manifest import Manifest, ManifestError


def says(**facts: object) -> Manifest:
    return Manifest("handover", dict(facts), {}, "")


def test_offsets_are_read_by_topic() -> None:
    facts = HandoverFacts(offsets={"a-sequences": {"0": 5, "1": 7}, "items": {"0": 60}})
    assert facts.learnt_to("a-sequences") == {0: 5, 1: 7}
    assert HandoverFacts().learnt_to("a-sequences") == {}


def test_what_a_newer_version_says_is_shown_as_far_as_it_is_known_and_not_built_upon() -> None:
    manifest = says(schema_version=2, reason="idle", offsets=[1], colour="red")
    known = HandoverFacts.known(manifest)
    assert (known.reason, known.offsets) == ("idle", {}) and "newer version" in known.newer
    with pytest.raises(ManifestError, match="facts 2, this one knows 1.: run that version here"):
        HandoverFacts.of(manifest)
    assert HandoverFacts.of(says(colour="red", reason="idle")).newer == ""


def test_a_fact_that_is_not_what_it_should_be_is_named() -> None:
    with pytest.raises(ManifestError, match=r"says offsets.items.0 'x'"):
        HandoverFacts.of(says(offsets={"items": {"0": "x"}}))
