"""A local Flink cluster alone, in the foreground, for a container.

Started by `python -m deploy.local.flink_server`.

`sparc up` starts the same two processes beside the other parts. Here JobManager and TaskManager are
under a supervisor of their own, and both end with this process.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from deploy.local import flink_cluster
from deploy.local.flink_cluster import FlinkClusterConfig, FlinkClusterError
from deploy.local.java import JavaError
from deploy.local.supervision import Program, SupervisionError, Supervisor


def serve(config: FlinkClusterConfig, stop: threading.Event) -> None:
    """Run the cluster until `stop` is set.

    Raises:
        JavaError, FlinkClusterError, SupervisionError: what is missing, or did not start.
    """
    flink_cluster.prepare(config)
    programs = [
        Program("jobmanager", flink_cluster.job_manager_command(), config.data_dir),
        Program("taskmanager", flink_cluster.task_manager_command(config), config.data_dir),
    ]
    supervisor = Supervisor(programs, config.data_dir / "logs", {})
    try:
        supervisor.wait_until_up()
        while not stop.wait(1.0):
            for state in supervisor.states().values():
                if state.state == "FATAL":
                    raise FlinkClusterError(f"{state.name} does not start; see {state.log}")
    finally:
        supervisor.stop()


def main() -> int:
    """Entry point of `python -m deploy.local.flink_server`."""
    parser = argparse.ArgumentParser(description="Run a Flink cluster of one TaskManager.")
    parser.add_argument(
        "--host", default=FlinkClusterConfig.host, help="a name or address of this machine"
    )
    parser.add_argument(
        "--port", type=int, default=FlinkClusterConfig.rest_port, help="of the REST API"
    )
    parser.add_argument("--directory", type=Path, required=True)
    arguments = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        serve(
            FlinkClusterConfig(
                arguments.directory.resolve(), arguments.host, rest_port=arguments.port
            ),
            stop,
        )
    except (JavaError, FlinkClusterError, SupervisionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
