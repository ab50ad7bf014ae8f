"""Hands the job to Flink.

Run as `python -m streaming.job.submission`, with a description of the job on standard input, it
submits the job and prints its id: the JVM of the PyFlink client ends with that process instead of
staying.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from streaming.errors import StreamingError, innermost_cause
from streaming.job.gateway import open_gateway
from streaming.job.settings import (
    JobConfig,
    JobEnvironment,
    flink_settings,
    from_json,
    java_settings,
    to_json,
)
from streaming.temporary import temporary

SUBMIT_SECONDS = 180.0


def submit(config: JobConfig, environment: JobEnvironment, *, check_only: bool = False) -> str:
    """Submit the job and return its id; starts a JVM in this process.

    With `check_only` the job is planned and not submitted, and its id is empty.

    Raises:
        StreamingError: with the root cause, if Flink refuses it.
    """
    from py4j.protocol import Py4JError
    from pyflink.common import Configuration
    from pyflink.datastream import StreamExecutionEnvironment
    from pyflink.java_gateway import get_gateway
    from pyflink.util.exceptions import JavaException

    missing = [jar for jar in environment.jars if not Path(jar).is_file()]
    if missing or not environment.jars:
        raise StreamingError(
            f"{missing[0] if missing else 'the jar of the Kafka connector'} is not there; fetch "
            "what the job needs with: ./deploy/fetch_jars.sh"
        )
    settings = java_settings(config, environment)
    try:
        open_gateway()
        jvm = get_gateway().jvm
        with temporary("flink-client") as folder:
            configuration = Configuration()
            of_tls = environment.tls.java_settings(folder, "rest")
            for name, value in (flink_settings(config, environment) | of_tls).items():
                configuration.set_string(name, value)
            # `get_execution_environment` would make one that runs the job in this process.
            java = jvm.StreamExecutionEnvironment(configuration._j_configuration)
            jvm.sparc.streaming.SequencesJob.describe(
                java, settings.job, settings.consumer, settings.producer
            )
            if check_only:
                java.getStreamGraph(False)
                return ""
            client = StreamExecutionEnvironment(java).execute_async(config.name)
            return str(client.get_job_id())
    except (Py4JError, JavaException) as error:
        raise StreamingError(
            f"Flink at {environment.flink} refused the job: {innermost_cause(str(error))}"
        ) from error


def submit_in_subprocess(
    config: JobConfig, environment: JobEnvironment, *, check_only: bool = False
) -> str:
    """`submit` in a process of its own, so that the client's JVM does not stay.

    Raises:
        StreamingError: with the root cause.
    """
    spec = importlib.util.find_spec("pyflink")
    home = os.path.dirname(os.path.realpath((spec and spec.origin) or ""))
    variables = {
        **os.environ,
        # A JVM of a few seconds: quick to start, and no code is worth the second compiler.
        "JVM_ARGS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx512m",
        # The job has no Python workers: no loopback server, which would import Beam.
        "_python_worker_execution_mode": "process",
        # PyFlink looks for its jars with glob, for which a name may hold patterns.
        "FLINK_LIB_DIR": glob.escape(os.path.join(home, "lib")),
        "FLINK_OPT_DIR": glob.escape(os.path.join(home, "opt")),
    }
    try:
        done = subprocess.run(  # noqa: S603
            [
                sys.executable,
                "-P",
                "-m",
                "streaming.job.submission",
                *(["check"] if check_only else []),
            ],
            env=variables,
            input=to_json(config, environment),
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
