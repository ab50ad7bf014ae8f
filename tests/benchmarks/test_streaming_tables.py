from __future__ import annotations

from tests.benchmarks.streaming_contenders import CONTENDERS
from tests.benchmarks.streaming_tables import DURABLE, WORDS, section

REPORT = {
    "settings": {"events": 1_000_000, "users": 20_000, "seed": 0, "partitions": 2},
    "machine": {"cores": 2, "processor": "x86", "load_average": 0.5},
    "versions": {"python": "3.11"},
    "versions_of_peers": {"bytewax": "0.21.1"},
    "peers": [
        {"name": "ours-heap", "events_per_second": 60_000, "events_per_cpu_second": 40_000},
        {"name": "bytewax-1", "events_per_second": 15_000, "events_per_cpu_second": 16_000},
        {"name": "quix-1", "failed": "ended with 1"},
    ],
    "freshness": [{"name": "at least once", "p50_ms": 90, "p95_ms": 1200, "p99_ms": 1300}],
}


def test_ratios_are_taken_over_the_fastest_durable_peer_that_ran():
    text = section(REPORT)
    assert "| SPARC's job, heap state, exactly once | 60,000 | 40,000 |" in text
    assert "by time (ours-heap over bytewax-1) | at least 2 x | 4.0 x |" in text
    assert "by CPU time (ours-heap over bytewax-1) | at least 2 x | 2.5 x |" in text
    assert "1 process | failed |" in text
    assert "| at least once | 90 | 1,200 | 1,300 |" in text


def test_every_contender_has_its_words():
    assert CONTENDERS.keys() <= WORDS.keys()
    assert set(DURABLE) <= CONTENDERS.keys()
