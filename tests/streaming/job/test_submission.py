from __future__ import annotations

import pytest

from deploy.local.java import JavaError, find_jars, find_java
from streaming.errors import StreamingError
from streaming.job.settings import JobConfig, JobEnvironment
from streaming.job.submission import submit_in_subprocess


def test_what_cannot_be_planned_is_refused_with_the_root_cause(jars):
    try:
        find_java()
    except JavaError as error:
        pytest.skip(str(error))
    where = JobEnvironment(
        "127.0.0.1:1",
        "127.0.0.1:1",
        tuple(map(str, find_jars(jars / "flink", "*.jar"))),
        "file:///nowhere",
    )
    assert submit_in_subprocess(JobConfig(), where, check_only=True) == ""
    with pytest.raises(StreamingError, match="refused the job"):
        submit_in_subprocess(JobConfig(user_ttl="much"), where, check_only=True)


def test_a_missing_jar_is_named():
    where = JobEnvironment("127.0.0.1:1", "127.0.0.1:1", ("/no/connector.jar",), "file:///nowhere")
    with pytest.raises(StreamingError, match=r"/no/connector.jar is not there.*fetch_jars"):
        submit_in_subprocess(JobConfig(), where)
