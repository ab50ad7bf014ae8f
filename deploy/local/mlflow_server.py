"""The MLflow tracking server of a pipeline, in one lean process.

`mlflow server` imports MLflow twice (the command and its uvicorn worker) and starts seven more
processes for jobs that this project does not use. Here the same application, MLflow's own
`mlflow.server.fastapi_app` with its security middleware, runs in this process: about 260 MB
instead of 2 GB, and up in half the time. SQLite and the artifacts lie in one directory, and
artifacts are proxied, so clients need nothing but the address.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from deploy.environment import settle
from deploy.http.connections import Limits, most_connections, raise_descriptors
from deploy.http.door import Door
from deploy.private import UMASK
from streaming.durable_files import PARTIAL, appear, remove_partial, sync_tree

DATABASE = "mlflow.db"


class MlflowServerError(RuntimeError):
    """The server cannot start; the message says why."""


@dataclass(frozen=True)
class MlflowServerConfig:
    """Where the server listens.

    Attributes:
        host: address to bind; anything but loopback exposes an unauthenticated registry.
        port: TCP port.
        hosts: names that requests may come under beside `localhost`, `host` and addresses.
    """

    host: str = "127.0.0.1"
    port: int = 5000
    hosts: tuple[str, ...] = ()

    @property
    def tracking_uri(self) -> str:
        """What clients connect to."""
        return f"http://{self.host}:{self.port}"


def mlflow_server_command(config: MlflowServerConfig, data_dir: Path) -> list[str]:
    """Command line that serves `data_dir`/mlflow with this interpreter."""
    return [
        sys.executable,
        "-P",
        "-m",
        "deploy.local.mlflow_server",
        f"--host={config.host}",
        f"--port={config.port}",
        *(f"--allow-host={name}" for name in config.hosts),
        f"--directory={data_dir / 'mlflow'}",
    ]


def make_database() -> None:
    """Make an empty database in the working directory.

    MLflow builds it by some forty migrations without a transaction around them: one that was
    killed in their middle can be neither finished nor begun anew. So it gets its name when it is
    whole.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    remove_partial(Path())
    partial = Path(f"{PARTIAL}{DATABASE}")
    partial.mkdir()
    store = SqlAlchemyStore(f"sqlite:///{partial / DATABASE}", "mlflow-artifacts:/")
    store.engine.dispose()
    sync_tree(partial)
    appear(partial / DATABASE, Path(DATABASE))
    remove_partial(Path())


def serve(config: MlflowServerConfig, directory: Path) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        MlflowServerError: if the port is taken.
    """
    os.umask(UMASK)
    directory.mkdir(parents=True, exist_ok=True)
    # The protocol is named so that asyncio sends answers at once (TCP_NODELAY).
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise MlflowServerError(
            f"MLflow server: cannot listen on {config.host}:{config.port} ({error.strerror}); "
            "stop what uses the port or configure another one"
        ) from error
    # Read while MLflow is imported, so set before: no job runners, nothing sent to its makers.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_SERVER_ALLOWED_HOSTS"] = "*"  # ours are checked at the door
    import uvicorn  # before mlflow.server, which looks for it to turn its host checks on
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores

    # Relative: MLflow percent-decodes a path and SQLAlchemy ends it at a question mark.
    os.chdir(directory)
    if not Path(DATABASE).exists():
        make_database()
    store = f"sqlite:///{DATABASE}"
    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = store
    os.environ[constants.REGISTRY_STORE_URI_ENV_VAR] = store
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
    os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = "artifacts"
    initialize_backend_stores(store, store, "mlflow-artifacts:/")
    from deploy.http.bounded_protocol import bounded_protocol  # imports uvicorn

    warnings.filterwarnings("ignore", message="starlette.middleware.wsgi is deprecated")
    from mlflow.server.fastapi_app import app

    limits = Limits()
    connections = most_connections(limits.connections, raise_descriptors())
    server = uvicorn.Server(
        uvicorn.Config(
            # MLflow's own checks let `10.any.name` in, and pages of every port of this machine.
            Door(app, (config.host, *config.hosts), "--allow-host"),
            http=bounded_protocol(replace(limits, connections=connections)),
            ws="none",
            log_level="warning",
            access_log=False,
        )
    )
    server.run(sockets=[listener])


def main() -> int:
    """Entry point of `python -m deploy.local.mlflow_server`."""
    settle()
    parser = argparse.ArgumentParser(description="Serve the MLflow registry of one pipeline.")
    parser.add_argument("--host", default=MlflowServerConfig.host)
    parser.add_argument("--port", type=int, default=MlflowServerConfig.port)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME")
    arguments = parser.parse_args()
    try:
        config = MlflowServerConfig(arguments.host, arguments.port, tuple(arguments.allow_host))
        serve(config, arguments.directory)
    except (MlflowServerError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
