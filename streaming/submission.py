"""Hands the job to Flink, with ids of its operators that stay the same.

Run as `python -m streaming.submission`, with a description of the job on standard input, it submits
the job and prints its id: the JVM of the PyFlink client ends with that process instead of staying.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from streaming.failure import StreamingError, innermost_cause
from streaming.job import (
    Config,
    Surroundings,
    flink_settings,
    from_json,
    statements,
    to_json,
)

SUBMIT_SECONDS = 180.0

STATEFUL = {"table-source-scan": 1, "process-table-function": 2, "sink": 3}
"""The operators with state, by what the planner calls them, and the numbers that are their own."""


def with_stable_ids(plan: dict[str, Any]) -> dict[str, Any]:
    """A compiled plan in which the operators with state keep their ids whatever is between them.

    Flink finds the state of an operator by an id, which a compiled plan takes from the number of
    its node, and the planner numbers nodes one after the other. (The process table function goes by
    its `uid`.) https://nightlies.apache.org/flink/flink-docs-stable/docs/dev/table/concepts/

    Raises:
        StreamingError: if the plan has not one of each.
    """
    ids = {}
    for node in plan["nodes"]:
        kind = str(node["type"]).removeprefix("stream-exec-").rpartition("_")[0]
        ids[node["id"]] = STATEFUL.get(kind, 100 + int(node["id"]))
    if sorted(i for i in ids.values() if i < 100) != sorted(STATEFUL.values()):
        raise StreamingError(
            f"the job's plan has not one each of {', '.join(STATEFUL)}: give every operator with "
            "state a number of its own in streaming/job.py"
        )
    nodes = [node | {"id": ids[node["id"]]} for node in plan["nodes"]]
    edges = [e | {end: ids[e[end]] for end in ("source", "target")} for e in plan["edges"]]
    return plan | {"nodes": nodes, "edges": edges}


def submit(config: Config, around: Surroundings, *, check_only: bool = False) -> str:
    """Submit the job and return its id; starts a JVM in this process.

    With `check_only` the job is planned and not submitted, and its id is empty.

    Raises:
        StreamingError: with the root cause, if Flink refuses it.
    """
    from py4j.protocol import Py4JError
    from pyflink.common import Configuration
    from pyflink.table import (
        CompiledPlan,
        EnvironmentSettings,
        PlanReference,
        TableEnvironment,
    )
    from pyflink.util.exceptions import JavaException

    missing = [jar for jar in around.jars if not Path(jar).is_file()]
    if missing or not around.jars:
        raise StreamingError(
            f"{missing[0] if missing else 'the jar of the Kafka connector'} is not there; fetch "
            "what the job needs with: mvn -q -B -f deploy/pom.xml package"
        )
    configuration = Configuration()
    for name, value in flink_settings(config, around).items():
        configuration.set_string(name, value)
    definitions, insert = statements(config, around)
    try:
        table = TableEnvironment.create(
            EnvironmentSettings.new_instance()
            .in_streaming_mode()
            .with_configuration(configuration)
            .build()
        )
        for definition in definitions:
            table.execute_sql(definition)
        plan = with_stable_ids(json.loads(table.compile_plan_sql(insert).as_json_string()))
        loaded = table.load_plan(PlanReference.from_json_string(json.dumps(plan)))
        # What PyFlink 2.2 loads cannot be executed: it holds Java's environment for Python's.
        compiled = CompiledPlan(loaded._j_compiled_plan, table)
        if check_only:
            compiled.explain()
            return ""
        client = compiled.execute().get_job_client()
        if client is None:
            raise StreamingError(f"Flink at {around.flink} took the job and gave it no id")
        return str(client.get_job_id())
    except (Py4JError, JavaException) as error:
        raise StreamingError(
            f"Flink at {around.flink} refused the job: {innermost_cause(str(error))}"
        ) from error


def submit_in_subprocess(config: Config, around: Surroundings, *, check_only: bool = False) -> str:
    """`submit` in a process of its own, so that the client's JVM does not stay.

    Raises:
        StreamingError: with the root cause.
    """
    environment = {
        # A JVM of a few seconds: quick to start, and no code is worth the second compiler.
        "JVM_ARGS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx512m",
        # The job has no Python workers: no loopback server, which would import Beam.
        "_python_worker_execution_mode": "process",
        **os.environ,
    }
    try:
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "streaming.submission", *(["check"] if check_only else [])],
            env=environment,
            input=to_json(config, around),
            capture_output=True,
            text=True,
            timeout=SUBMIT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise StreamingError(f"submitting the job took over {SUBMIT_SECONDS:.0f} s") from error
    lines = done.stdout.splitlines()
    for line in lines:
        if line.startswith("job"):
            return line.removeprefix("job ").strip()
    said = [s.removeprefix("error: ") for s in lines if s.startswith("error: ")]
    said = said or done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
    raise StreamingError(said[-1])


def main() -> int:
    """Submit the job that standard input describes, or, with `check`, only plan it."""
    check_only = sys.argv[1:] == ["check"]
    try:
        job = submit(*from_json(sys.stdin.read()), check_only=check_only)
        print(f"job {job}", flush=True)
    except StreamingError as error:
        print(f"error: {' '.join(str(error).split())}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
