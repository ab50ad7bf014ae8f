"""The few calls of Flink's REST API that keeping a job alive needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from streaming.errors import StreamingError, innermost_cause
from streaming.job.flink_tls import FlinkTls

HISTORY = 16
"""Failures that Flink remembers of a job."""
FINAL_STATES = ("FAILED", "CANCELED", "FINISHED", "SUSPENDED")


class FlinkUnavailable(StreamingError):
    """The JobManager does not answer, or not as asked; worth another try."""


@dataclass(frozen=True)
class Checkpoints:
    """Counters of a job's checkpoints since it was submitted."""

    completed: int
    failed: int
    latest: str


class FlinkRest:
    """A session cluster at `address` ("host:port"), spoken to as `tls` says.

    Raises:
        FlinkTlsError: if a file of `tls` cannot be read.
    """

    def __init__(self, address: str, tls: FlinkTls, timeout: float = 5.0) -> None:
        self.address = address
        self._client = httpx.Client(
            base_url=tls.url(address), verify=tls.context(), timeout=timeout
        )

    def _get(self, path: str) -> Any:
        try:
            return self._client.get(path).raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise FlinkUnavailable(f"Flink at {self.address} does not answer ({error})") from error

    def task_managers(self) -> int:
        """Registered TaskManagers."""
        return int(self._get("/overview")["taskmanagers"])

    def jobs(self, name: str) -> list[tuple[str, str]]:
        """Jobs of that name: (id, state), the newest first."""
        jobs = [j for j in self._get("/jobs/overview")["jobs"] if j["name"] == name]
        jobs.sort(key=lambda j: -int(j["start-time"]))
        return [(j["jid"], j["state"]) for j in jobs]

    def state(self, job: str) -> str:
        """Flink's word for the state of a job; "UNKNOWN" for one that the cluster has forgotten.

        Not from `/jobs/<id>`: what that says is kept for some seconds of the wall clock, and so for
        an hour when it is put back by one.
        """
        every = self._get("/jobs/overview")["jobs"]
        return next((str(j["state"]) for j in every if j["jid"] == job), "UNKNOWN")

    def checkpoints(self, job: str) -> Checkpoints:
        """Counters, and the path of the latest completed checkpoint ("" before the first)."""
        body = self._get(f"/jobs/{job}/checkpoints")
        latest = (body.get("latest") or {}).get("completed") or {}
        counts = body["counts"]
        return Checkpoints(
            int(counts["completed"]), int(counts["failed"]), str(latest.get("external_path") or "")
        )

    def restored_from(self, job: str) -> str:
        """The state that the job began with; "" for none."""
        latest = self._get(f"/jobs/{job}/checkpoints").get("latest") or {}
        return str((latest.get("restored") or {}).get("external_path") or "")

    def last_savepoint(self, job: str) -> str:
        """The newest savepoint of a job that the cluster remembers; "" for none."""
        latest = self._get(f"/jobs/{job}/checkpoints").get("latest") or {}
        return str((latest.get("savepoint") or {}).get("external_path") or "")

    def restarts(self, job: str) -> int:
        """How often Flink has restarted the job since it was submitted."""
        metrics = self._get(f"/jobs/{job}/metrics?get=numRestarts")
        return int(float(metrics[0]["value"])) if metrics else 0

    def failures(self, job: str) -> list[tuple[int, str]]:
        """The last failures that Flink remembers, newest first: (ms since 1970, stack trace)."""
        history = self._get(f"/jobs/{job}/exceptions?maxExceptions={HISTORY}")
        entries = (history.get("exceptionHistory") or {}).get("entries") or []
        return [
            (int(e["timestamp"]), str(e.get("stacktrace") or e["exceptionName"])) for e in entries
        ]

    def root_cause(self, job: str) -> str:
        """The innermost cause of the newest failure, one line; empty where there is none."""
        try:
            failures = self.failures(job)
        except (FlinkUnavailable, KeyError):
            return ""
        return innermost_cause(failures[0][1]) if failures else ""

    def cancel(self, job: str) -> None:
        """Cancel a job; its checkpoints are kept."""
        try:
            self._client.patch(f"/jobs/{job}?mode=cancel").raise_for_status()
        except httpx.HTTPError as error:
            raise FlinkUnavailable(f"Flink at {self.address}: cannot cancel ({error})") from error

    def stop_with_savepoint(
        self,
        job: str,
        directory: str,
        timeout: float = 8.0,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> str:
        """Take a savepoint into `directory` and stop the job; returns the savepoint's path.

        Raises:
            FlinkUnavailable: if it is not done within `timeout` seconds.
        """
        try:
            answer = self._client.post(
                f"/jobs/{job}/stop", json={"targetDirectory": directory, "drain": False}
            )
            request = answer.raise_for_status().json()["request-id"]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise FlinkUnavailable(f"Flink at {self.address}: no savepoint ({error})") from error
        deadline = clock() + timeout
        while clock() < deadline:
            body = self._get(f"/jobs/{job}/savepoints/{request}")
            if body["status"]["id"] == "COMPLETED":
                operation = body["operation"]
                if "location" in operation:
                    return str(operation["location"])
                cause = str(operation.get("failure-cause", {}).get("class"))
                raise FlinkUnavailable(f"Flink at {self.address}: the savepoint failed ({cause})")
            sleep(0.1)
        raise FlinkUnavailable(f"Flink at {self.address}: no savepoint within {timeout:.0f} s")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
