"""Everything behind docs/RESULTS.md: peers, SPARC, controls, intervals and leave-one-out.

    python -m tests.benchmarks.quality --out DIR [--datasets beauty,toys] [--seeds 0,1,2]
    python -m tests.benchmarks.quality --out DIR --render [--document docs/RESULTS.md]

Each run is a `sparc evaluate` process of its own, in `DIR/<dataset>/seed-<S>/<model>/`. What is
there with the same settings is not played again, so a stopped command is simply given again.
Then tables are written to `DIR/tables.md`, and into the document where it has places for them:
the text between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlflow import MlflowClient

from deploy.studies.tracking import database_uri
from tests.benchmarks import quality_tables

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
SPARC = [sys.executable, "-m", "deploy", "evaluate"]
PARTS = ("peers", "sparc", "controls", "intervals", "loo")
COUNTING = ("popularity", "neighbours")
"""Peers without randomness: one seed is enough."""
NEURAL = (
    "two_tower_recency", "two_tower", "sasrec_recency", "sasrec", "comirec_content", "comirec",
    "mind", "sasrec_frozen",
)  # fmt: skip
LOO_SETTINGS = Path(__file__).with_name("leave_one_out.toml")
LOO_PEERS = ("neighbours", "sasrec", "two_tower", "comirec", "mind")


def commands(options: argparse.Namespace, dataset: str) -> list[list[str]]:
    """What is to be played for a dataset, in the order of what one wants to see first."""
    place = options.out / dataset
    data = options.data / dataset
    common = ["--tracking-uri", _tracking(options)]
    common += ["--device", options.device]
    if options.config:
        common += ["--config", str(options.config)]
    log = ["--events", str(data / "events.csv"), "--items", str(data / "items.csv")]
    if options.until:
        log += ["--until", options.until]
    seeds = [int(seed) for seed in options.seeds.split(",")]
    peer_seeds = [int(seed) for seed in options.peer_seeds.split(",")]
    found: list[list[str]] = []

    def play(name: str, seed: int, *more: str) -> None:
        out = place / f"seed-{seed}" / name
        found.append(
            [*log, *common, "--model", name, "--seed", str(seed), "--out", str(out), *more]
        )

    parts = options.parts.split(",")
    if "peers" in parts:
        for name in COUNTING:
            play(name, peer_seeds[0])
    if "sparc" in parts:
        for seed in seeds:
            play("sparc", seed, "--ways")
    if "peers" in parts:
        for seed in peer_seeds:
            for name in NEURAL:
                play(name, seed)
    if "loo" in parts:
        file = options.data / "loo" / f"{dataset}.inter"
        for name in ("sparc", *LOO_PEERS):
            for seed in seeds if name == "sparc" else peer_seeds[:1]:
                out = place / "loo" / f"seed-{seed}" / name
                own = ["--config", str(LOO_SETTINGS)] if name == "sparc" else []
                found.append(
                    ["loo", "--interactions", str(file), *common, *own, "--model", name,
                     "--seed", str(seed), "--out", str(out)]
                )  # fmt: skip
    return found


def studies(options: argparse.Namespace, dataset: str) -> list[list[str]]:
    """The commands that need SPARC's runs: after all others."""
    data, found = options.data / dataset, []
    for part in ("controls", "intervals"):
        if part in options.parts.split(","):
            command = [part, "--events", str(data / "events.csv")]
            command += ["--items", str(data / "items.csv"), "--out", str(options.out / dataset)]
            command += ["--seeds", options.seeds, "--device", options.device]
            command += ["--tracking-uri", _tracking(options)]
            command += ["--config", str(options.config)] if options.config else []
            command += ["--until", options.until] if options.until else []
            found.append(command)
    return found


def _tracking(options: argparse.Namespace) -> str:
    return database_uri(options.out)


def run(command: list[str], log: Path) -> bool:
    """Run one evaluation; its output goes to the end of the log file."""
    started = time.monotonic()
    with log.open("ab") as file:
        file.write(f"$ sparc evaluate {' '.join(command)}\n".encode())
        file.flush()
        code = subprocess.run([*SPARC, *command], cwd=ROOT, stdout=file, stderr=file).returncode
    seconds = time.monotonic() - started
    what = "done" if code == 0 else f"FAILED ({code}), see {log}"
    print(f"{seconds:7.0f} s  {what}  {_short(command)}", flush=True)
    return code == 0


def _short(command: list[str]) -> str:
    """Command without its paths."""
    return " ".join(Path(word).name if os.sep in word else word for word in command)


def main(arguments: list[str] | None = None) -> int:
    """Play what is missing and render the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=DATA, help="holds beauty/, toys/ and loo/")
    parser.add_argument("--datasets", default="beauty,toys")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seeds", default="0,1,2", help="of SPARC and its controls")
    parser.add_argument("--peer-seeds", default="0")
    parser.add_argument("--until", help="last day of the log, YYYY-MM-DD")
    parser.add_argument("--config", type=Path, help="TOML file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--render", action="store_true", help="only write the tables")
    parser.add_argument("--document", type=Path, default=ROOT / "docs" / "RESULTS.md")
    options = parser.parse_args(arguments)
    unknown = set(options.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"--parts {', '.join(unknown)}: there are {', '.join(PARTS)}")
    datasets = options.datasets.split(",")
    options.out.mkdir(parents=True, exist_ok=True)
    good = True
    if not options.render:
        for dataset in datasets:
            if not (options.data / dataset / "events.csv").is_file():
                parser.error(f"{options.data / dataset}: no such data set; see --data")
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        MlflowClient(_tracking(options)).search_experiments()  # two runs must not make it at once
        for step in (commands, studies):
            planned = [command for dataset in datasets for command in step(options, dataset)]
            logs = [options.out / f"job-{n % options.jobs}.log" for n in range(len(planned))]
            with ThreadPoolExecutor(options.jobs) as pool:
                good = all(list(pool.map(run, planned, logs))) and good
    tables = quality_tables.render(options.out, datasets)
    text = "".join(f"## {name}\n\n{table}\n\n" for name, table in tables.items())
    (options.out / "tables.md").write_text(text, encoding="utf-8")
    filled = quality_tables.fill(options.document, tables)
    print(f"{options.out / 'tables.md'}: {len(tables)} tables, {filled} of them in the document")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
