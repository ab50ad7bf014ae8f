"""`sparc doctor`: whether this machine can run the pipeline, and what to do where it cannot."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil
import typer
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from deploy import settings as configuration
from deploy.commands.client import console
from deploy.commands.console import configure_logging, errors_as_one_line, show_json
from deploy.commands.options import AsJson, ConfigFile, DataDir
from deploy.local.java import JavaError, find_java
from deploy.local.ports import chosen, is_free
from deploy.settings import Settings

Grade = Literal["good", "warning", "bad"]
LEAST_DISK_GIB, ENOUGH_DISK_GIB = 2.0, 10.0
LEAST_MEMORY_GIB, ENOUGH_MEMORY_GIB = 4.0, 6.0
PACKAGES = ("apache-flink", "faiss-gpu", "fastapi", "kafka-python", "mlflow", "rocksdict", "torch")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        grade: "bad" keeps the pipeline from running, "warning" may trouble it.
        found: what there is.
        remedy: what to do; empty where nothing is to be done.
    """

    name: str
    grade: Grade
    found: str
    remedy: str = ""


def doctor(config: ConfigFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check Java, Maven, ports, disk, memory, GPU and versions, and say what to do.

    Exit code 1 where something keeps the pipeline from running.

    Example: `sparc doctor`
    """
    configure_logging("error")  # what a report says of itself is in the answer
    with errors_as_one_line():
        findings = examine(configuration.load(config, data_dir))
    if as_json:
        show_json(as_plain(findings))
    else:
        colours = {"good": "green", "warning": "yellow", "bad": "red"}
        table = Table("", "", "found", "what to do", box=SIMPLE)
        for one in findings:
            grade = f"[{colours[one.grade]}]{one.grade}[/]"
            table.add_row(one.name, grade, escape(one.found), escape(one.remedy))
        console.print(table)
    if not healthy(findings):
        raise typer.Exit(1)


def examine(settings: Settings) -> list[Finding]:
    """Look at everything; never raises for what it finds."""
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _java,
        lambda: _maven(settings),
        lambda: _disk(settings.data_dir),
        _memory,
        _gpu,
        lambda: _search_device(settings),
        lambda: _ports(settings),
        lambda: _services(settings),
        lambda: _data(settings),
    )
    return [finding for look in looks for finding in look()]


def healthy(findings: list[Finding]) -> bool:
    """Whether nothing keeps the pipeline from running."""
    return all(finding.grade != "bad" for finding in findings)


def as_plain(findings: list[Finding]) -> dict[str, object]:
    """For `--json`."""
    return {"healthy": healthy(findings), "findings": [asdict(one) for one in findings]}


def _python() -> Iterator[Finding]:
    fits = (3, 11) <= sys.version_info[:2] < (3, 13)
    remedy = "" if fits else "install Python 3.11 and start ./deploy/start_pipeline.sh again"
    yield Finding("Python", "good" if fits else "bad", platform.python_version(), remedy)


def _packages() -> Iterator[Finding]:
    missing, found = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        remedy = "./deploy/start_pipeline.sh installs them; or uv pip install -r requirements.lock"
        yield Finding("packages", "bad", f"missing: {', '.join(missing)}", remedy)
    else:
        yield Finding("packages", "good", ", ".join(found))


def _java() -> Iterator[Finding]:
    try:
        java = find_java()
    except JavaError as error:
        found, _, remedy = str(error).partition("; ")
        yield Finding("Java", "bad", found, remedy)
    else:
        yield Finding("Java", "good", str(java))


def _maven(settings: Settings) -> Iterator[Finding]:
    jars = len(list(settings.jars_dir.glob("*/*.jar")))
    if jars:
        yield Finding("jars", "good", f"{jars} in {settings.jars_dir.name}/, Maven is not needed")
    elif (maven := shutil.which("mvn")) is not None:
        remedy = "./deploy/start_pipeline.sh fetches them"
        yield Finding("jars", "warning", f"none yet; Maven is {maven}", remedy)
    else:
        remedy = "install Maven (apt-get install maven): it fetches Kafka and Flink's connector"
        yield Finding("jars", "bad", "none, and no Maven on the PATH", remedy)


def _disk(data_dir: Path) -> Iterator[Finding]:
    place = data_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    grade: Grade = "bad" if free < LEAST_DISK_GIB else "good"
    if grade == "good" and free < ENOUGH_DISK_GIB:
        grade = "warning"
    remedy = "" if grade == "good" else "free some space, or give --data-dir on another disk"
    yield Finding("disk", grade, f"{free:.1f} GiB free", remedy)
    if not os.access(place, os.W_OK):
        yield Finding(
            "data directory", "bad", f"{place} is not writable", "give another --data-dir"
        )


def _memory() -> Iterator[Finding]:
    free = psutil.virtual_memory().available / 2**30
    grade: Grade = "bad" if free < LEAST_MEMORY_GIB else "good"
    if grade == "good" and free < ENOUGH_MEMORY_GIB:
        grade = "warning"
    remedy = (
        ""
        if grade == "good"
        else "the pipeline takes about 4 GiB: end other programs, or run its parts on two machines"
    )
    cores = os.cpu_count() or 1
    yield Finding("memory", grade, f"{free:.1f} GiB available", remedy)
    yield Finding(
        "cores",
        "good" if cores > 1 else "warning",
        str(cores),
        "" if cores > 1 else "two or more keep the service quick while the trainer works",
    )


def _gpu() -> Iterator[Finding]:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        yield Finding("GPU", "good", "none: the CPU is used")
        return
    try:
        asked = subprocess.run(  # noqa: S603 - fixed arguments
            [smi, "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        asked = None
    if asked is None or asked.returncode != 0:
        remedy = "the driver does not answer; the CPU is used until it does"
        yield Finding("GPU", "warning", "nvidia-smi fails", remedy)
    else:
        yield Finding("GPU", "good", "; ".join(asked.stdout.split("\n")).strip("; "))


def _search_device(settings: Settings) -> Iterator[Finding]:
    """Whether the service can search where it is told to."""
    if settings.search.device != "cuda":
        return
    from deploy.service.search_device import why_not

    found, _, remedy = why_not(settings.search, settings.service.workers).partition(": ")
    if found:
        yield Finding("search", "bad", found, remedy)
    else:
        yield Finding("search", "good", "on the GPU")


def _ports(settings: Settings) -> Iterator[Finding]:
    from deploy.monitoring import moment
    from deploy.monitoring.part_status import is_alive, read_statuses

    now = moment.now()
    running = any(is_alive(s, now) for s in read_statuses(settings.data_dir).all().values())
    if running:
        yield Finding("ports", "good", "in use by this pipeline, which runs")
        return
    taken = [f"{name} {port}" for name, port in chosen(settings.ports).items() if not is_free(port)]
    if taken:
        remedy = (
            "stop what listens there, or set other ports in [ports]; "
            "./deploy/start_pipeline.sh picks free ones by itself"
        )
        yield Finding("ports", "warning", f"taken: {', '.join(taken)}", remedy)
    else:
        yield Finding("ports", "good", "free")


def _services(settings: Settings) -> Iterator[Finding]:
    """Kafka, Flink and MLflow, where they are somebody else's."""
    given = (
        ("Kafka", settings.kafka.bootstrap.split(",")[0], "[kafka] bootstrap"),
        ("Flink", settings.flink.address, "[flink] address"),
        ("MLflow", settings.registry.tracking_uri, "[registry] tracking_uri"),
    )
    for name, address, setting in given:
        if not address:
            continue
        host, _, port = address.removeprefix("https://").removeprefix("http://").rpartition(":")
        try:
            with socket.create_connection((host, int(port.split("/")[0])), timeout=3):
                yield Finding(name, "good", f"{address} answers")
        except (OSError, ValueError) as error:
            remedy = f"start it, or correct {setting}"
            yield Finding(name, "bad", f"{address} does not answer ({error})", remedy)


def _data(settings: Settings) -> Iterator[Finding]:
    from deploy.release.decisions import read_served
    from indexer.errors import IndexerError
    from indexer.snapshots.pointer import read_pointer

    try:
        pointer, served = read_pointer(settings.data_dir), read_served(settings.data_dir)
    except IndexerError as error:
        yield Finding("data directory", "bad", str(error), "`sparc up --fresh` begins anew")
        return
    if pointer is None:
        yield Finding("data directory", "good", "no snapshot yet")
        return
    version = served.version if served else pointer.version
    pinned = served is not None and served.pinned
    yield Finding(
        "data directory",
        "warning" if pinned else "good",
        f"version {version} serves" + (", pinned by a person" if pinned else ""),
        "`sparc promote newest` lets newer versions serve again" if pinned else "",
    )
