from __future__ import annotations

import pytest

from deploy.java import JavaError, find_jars, find_java
from streaming.failure import StreamingError
from streaming.job import Config, Surroundings
from streaming.submission import submit_in_subprocess, with_stable_ids


def plan(*kinds: str) -> dict:
    nodes = [{"id": i, "type": f"stream-exec-{kind}_1"} for i, kind in enumerate(kinds, 1)]
    edges = [{"source": n, "target": n + 1, "shuffle": {}} for n in range(1, len(kinds))]
    return {"flinkVersion": "2.2", "nodes": nodes, "edges": edges}


def ids(plan: dict) -> dict[str, int]:
    return {node["type"]: node["id"] for node in plan["nodes"]}


SHORT = ("table-source-scan", "process-table-function", "sink")
LONG = ("table-source-scan", "calc", "exchange", "process-table-function", "calc", "sink")


def test_operators_with_state_keep_their_ids_whatever_is_between_them():
    stateful = {f"stream-exec-{kind}_1": n for n, kind in enumerate(SHORT, 1)}
    assert ids(with_stable_ids(plan(*SHORT))) == stateful
    assert ids(with_stable_ids(plan(*LONG))).items() >= stateful.items()


def test_edges_lead_where_they_led():
    made = with_stable_ids(plan(*LONG))
    order = [made["edges"][0]["source"], *(edge["target"] for edge in made["edges"])]
    assert order == [node["id"] for node in made["nodes"]]
    assert len(set(order)) == len(LONG)


@pytest.mark.parametrize("kinds", [SHORT[:2], (*SHORT, "sink"), ("calc",)])
def test_a_plan_with_another_stateful_operator_is_refused(kinds):
    with pytest.raises(StreamingError, match="an? .*state"):
        with_stable_ids(plan(*kinds))


def test_what_cannot_be_planned_is_refused_with_the_root_cause(jars):
    try:
        find_java()
    except JavaError as error:
        pytest.skip(str(error))
    where = Surroundings(
        "127.0.0.1:1",
        "127.0.0.1:1",
        tuple(map(str, find_jars(jars / "flink", "*.jar"))),
        "file:///nowhere",
    )
    assert submit_in_subprocess(Config(), where, check_only=True) == ""
    with pytest.raises(StreamingError, match="refused the job"):
        submit_in_subprocess(Config(user_ttl="much"), where, check_only=True)


def test_a_missing_jar_is_named():
    where = Surroundings("127.0.0.1:1", "127.0.0.1:1", ("/no/connector.jar",), "file:///nowhere")
    with pytest.raises(StreamingError, match=r"/no/connector.jar is not there.*mvn"):
        submit_in_subprocess(Config(), where)
