"""What of the user's shell our processes keep: nothing there may steer a part of the pipeline.

A variable that helps another program of the same shell can break ours: a `PYTHONPATH` with a
package named `model`, a `JAVA_TOOL_OPTIONS` with another heap, a proxy that is asked for
127.0.0.1, a `MLFLOW_RUN_ID` that sends our metrics into somebody's run. Every process of ours calls
`settle` before it does anything, and what it starts inherits the result. What a person means for us
is said in `SPARC_...` variables, the configuration file, or flags; `JAVA_HOME`, proxies for other
hosts, certificates and credentials stay.
"""

from __future__ import annotations

import importlib.machinery
import locale
import os
import pwd
import re
import sys
import tempfile
from collections.abc import MutableMapping, Sequence
from pathlib import Path

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
ROOMS = ("streaming", "replay", "model", "indexer", "deploy")

STEERING = re.compile(
    r"PYTHON(?!DONTWRITEBYTECODE$|PYCACHEPREFIX$|UNBUFFERED$|UTF8$).*"
    # the JVM, PyFlink's gateway and Flink's scripts; log4j, which reads LOG4J_... as settings
    r"|_?JAVA_(?:TOOL_)?OPTIONS|JDK_JAVA_OPTIONS|CLASSPATH|JVM_ARGS|SUBMIT_ARGS|LOG4J_.*"
    r"|_?PYFLINK_.*|_python_worker_execution_mode"
    r"|_?FLINK_.*"
    # MLflow, but for who we are to a server of the user's
    r"|_?MLFLOW_(?!TRACKING_(?:USERNAME|PASSWORD|TOKEN|AUTH|AWS_SIGV4|INSECURE_TLS|"
    r"SERVER_CERT_PATH|CLIENT_CERT_PATH)$|S3_|KERBEROS_|BOTO_|SERVER_ALLOWED_HOSTS$|"
    r"SERVER_CORS_ALLOWED_ORIGINS$).*"
    r"|WEB_CONCURRENCY|FORWARDED_ALLOW_IPS|UVICORN_.*"
    r"|GIT_(?:DIR|WORK_TREE|INDEX_FILE|OBJECT_DIRECTORY|NAMESPACE|CEILING_DIRECTORIES)"
)
"""Names of variables that change what our Python, Java, Flink, MLflow or servers do."""


class ForeignPackageError(RuntimeError):
    """Another package has the name of one of ours; the message says where it comes from."""


def settle(environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Take out of the environment what steers, and put in what is missing; idempotent.

    Left out are `STEERING` and a certificate file that is not there. Local hosts are asked without
    a proxy. The locale is one of UTF-8, so that Python and Java read and write any file name. A
    user id without an entry in the password file gets a name and a home.

    Returns:
        The names of the variables that were taken out, sorted.
    """
    taken = sorted(name for name in environment if STEERING.fullmatch(name))
    certificates = environment.get("SSL_CERT_FILE")
    if certificates is not None and not os.path.isfile(certificates):
        taken.append("SSL_CERT_FILE")
    for name in taken:
        del environment[name]
    if any(name.lower().endswith("_proxy") for name in environment):
        for name in ("no_proxy", "NO_PROXY"):
            environment[name] = _with_local_hosts(
                environment.get(name) or environment.get(name.swapcase(), "")
            )
    environment["PYTHONUTF8"] = "1"
    if not _is_utf8(environment):
        environment["LC_ALL"] = "C.UTF-8"
    _name_the_user(environment)
    return taken


def _with_local_hosts(no_proxy: str) -> str:
    hosts = [host.strip() for host in no_proxy.split(",") if host.strip()]
    return ",".join([*hosts, *(host for host in LOCAL_HOSTS if host not in hosts)])


def _is_utf8(environment: MutableMapping[str, str]) -> bool:
    """Whether the locale that these variables choose writes UTF-8."""
    chosen = next(
        (environment[n] for n in ("LC_ALL", "LC_CTYPE", "LANG") if environment.get(n)), ""
    )
    known = locale.normalize(chosen).partition("@")[0]
    return known.upper().replace("-", "").endswith(".UTF8")


def _name_the_user(environment: MutableMapping[str, str]) -> None:
    # MLflow asks for the user's name, matplotlib and Maven for a home; in a container started with
    # a bare number as its user there is neither, and each fails in its own way.
    try:
        entry = pwd.getpwuid(os.geteuid())
    except KeyError:
        entry = None
    name = entry.pw_name if entry else "sparc"
    environment.setdefault("LOGNAME", name)
    environment.setdefault("USER", name)
    home = environment.get("HOME") or (entry.pw_dir if entry else "")
    if not os.path.isdir(home) or (entry is None and home == "/"):
        home = _temporary_home()
    environment["HOME"] = home


def _temporary_home() -> str:
    """A directory of this user alone, the same for each process of theirs."""
    home = Path(tempfile.gettempdir()) / f"sparc-home-{os.geteuid()}"
    try:
        home.mkdir(mode=0o700)
    except FileExistsError:
        # Anyone may make a name in a common directory: one that is not ours is not trusted.
        if home.is_symlink() or home.stat().st_uid != os.geteuid():
            return tempfile.mkdtemp(prefix="sparc-home-")
    return str(home)


def speak_plainly() -> None:
    """On a terminal that does not show UTF-8, what it lacks becomes `?` instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def refuse_foreign_packages(path: Sequence[str] | None = None) -> None:
    """Check that our packages are all of one place: their names are common ones.

    Args:
        path: as `sys.path`, which is the default.

    Raises:
        ForeignPackageError: naming the package that is not ours, and how to be rid of it.
    """
    ours = Path(__file__).resolve().parents[1]
    for room in ROOMS:
        found = importlib.machinery.PathFinder.find_spec(room, path)
        if found is None:  # an editable installation finds its packages by itself
            continue
        places = list(found.submodule_search_locations or [found.origin or ""])
        if not any(Path(place).resolve() == ours / room for place in places):
            raise ForeignPackageError(
                f"another package named {room!r} is in the way: {places[0]}; start from a "
                "directory without it, unset PYTHONPATH, or use ./deploy/start_pipeline.sh"
            )
