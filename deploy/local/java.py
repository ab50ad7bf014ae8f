"""The Java runtime and the jars that the local broker and the local Flink cluster run from."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

OLDEST_JAVA = 17
REMEDY = "install JDK 17 (Debian: apt-get install openjdk-17-jdk-headless) or set JAVA_HOME to one"
JARS = Path(__file__).resolve().parents[2] / ".deploy" / "jars"
"""Where `deploy/pom.xml` puts the jars unless told otherwise."""


class JavaError(RuntimeError):
    """No usable Java runtime, or jars missing; the message says the remedy."""


def find_java() -> Path:
    """The `java` of JAVA_HOME, or else of PATH.

    Raises:
        JavaError: if there is none, or it is older than 17.
    """
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if not found or not os.access(found, os.X_OK):
        where = f"JAVA_HOME={home} has no bin/java" if home else "no java on the PATH"
        raise JavaError(f"{where}, and Kafka and Flink need Java {OLDEST_JAVA} or newer; {REMEDY}")
    answer = subprocess.run([found, "-version"], capture_output=True, text=True)  # noqa: S603
    version = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    if version is None or int(version[1]) < OLDEST_JAVA:
        said = version[1] if version else (answer.stderr.strip() or "nothing")
        raise JavaError(
            f"{found} is Java {said}, Kafka and Flink need {OLDEST_JAVA} or newer; {REMEDY}"
        )
    return Path(found)


def find_jars(folder: Path, pattern: str) -> list[Path]:
    """The jars in `folder`, sorted; at least one must match `pattern`.

    Raises:
        JavaError: if none does.
    """
    if not any(folder.glob(pattern)):
        raise JavaError(f"{folder} holds no {pattern}; fetch the jars with: ./deploy/fetch_jars.sh")
    return sorted(folder.glob("*.jar"))


def class_path(jars: Sequence[Path]) -> str:
    """The jars as Java's `-cp` takes them.

    Raises:
        JavaError: if that cannot be said.
    """
    for jar in jars:
        if os.pathsep in str(jar):
            raise JavaError(
                f"{jar}: Java takes no jar from a path with a {os.pathsep!r} in it; move the "
                "checkout, or set jars_dir if the jars are elsewhere"
            )
    return os.pathsep.join(map(str, jars))


def empty_temporary(folder: Path) -> None:
    """Make a folder for a JVM's temporary files, without what a killed one left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
