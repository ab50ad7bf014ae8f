"""`sparc evaluate`: how good the models are, from files, by the protocol of the project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy import settings as configuration
from deploy.commands.console import configure_logging, errors_as_one_line, show_json
from deploy.commands.options import ConfigFile

if TYPE_CHECKING:
    from deploy.settings import Settings
    from deploy.studies.runs import Data

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Measure quality from files, with the pipeline's own learner, indexer and soft search.",
)

Events = Annotated[
    Path | None, typer.Option(help="user_id, item_id, time (seconds).", metavar="FILE")
]
Items = Annotated[
    Path | None, typer.Option(help="item_id, category, title, as far as known.", metavar="FILE")
]
Out = Annotated[Path | None, typer.Option(help="Directory of the results.", metavar="DIR")]
Until = Annotated[str | None, typer.Option(help="Last day of the log.", metavar="YYYY-MM-DD")]
Tail = Annotated[
    bool,
    typer.Option("--tail-of-warm-up", help="Play inside the warm-up, to choose settings by."),
]
Again = Annotated[bool, typer.Option("--again", help="Play also what is there already.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Tracking = Annotated[
    str | None, typer.Option(help="MLflow; default: the configured one, else a file in DIR.")
]


def _needed(**options: Path | None) -> None:
    for name, value in options.items():
        if value is None:
            raise ValueError(f"--{name} is missing: see sparc evaluate --help")


def _prepared(
    events: Path | None,
    items: Path | None,
    until: str | None,
    tail: bool,
    config: Path | None,
) -> tuple[Data, Settings]:
    """Data and settings; what imports torch comes after the configuration was read."""
    settings = configuration.load(config, written=False)
    configure_logging(settings.log_level)
    from deploy.studies import runs

    assert events is not None and items is not None  # noqa: S101 - see `_needed`
    return runs.read(events, items, until, tail), settings


@app.callback(invoke_without_command=True)
def evaluate(
    context: typer.Context,
    events: Events = None,
    items: Items = None,
    out: Out = None,
    model: Annotated[
        str, typer.Option(help="sparc, the name of a peer, or all of them.", metavar="NAME|all")
    ] = "sparc",
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
    until: Until = None,
    tail: Tail = False,
    config: ConfigFile = None,
    device: Device = "cpu",
    ways: Annotated[
        bool, typer.Option("--ways", help="Also ask what the controls and intervals need.")
    ] = False,
    again: Again = False,
    tracking_uri: Tracking = None,
) -> None:
    """Play the prequential protocol: each day is first answered, then learnt.

    Examples: `sparc evaluate --events events.csv --items items.csv --out results`;
    `sparc evaluate --events events.csv --items items.csv --out results --model all`
    """
    if context.invoked_subcommand is not None:
        return
    with errors_as_one_line():
        _needed(events=events, items=items, out=out)
        data, settings = _prepared(events, items, until, tail, config)
        from deploy.studies import plots, runs, tracking

        assert out is not None  # noqa: S101
        if model not in (*runs.NAMES, "all"):
            raise ValueError(f"--model {model}: there are {', '.join(runs.NAMES)} and all")
        uri = tracking.address(settings, tracking_uri, out)
        experiment = settings.evaluation.experiment
        names = runs.NAMES if model == "all" else (model,)
        results: dict[str, Any] = {}
        for name in names:
            directory = out / name if model == "all" else out
            asked = runs.ALL_WAYS if ways and name == runs.SPARC else ()
            report, fresh = runs.play(
                name, data, settings, directory, seed=seed, device=device, ways=asked, again=again
            )
            plots.draw(directory)
            if fresh:
                tracking.log_run(report, directory, uri, experiment, {"command": "evaluate"})
            results[name] = report["metrics"]
        for name in names if len(names) > 1 else ():
            plots.draw(out / name)  # once more: now all runs are there to be compared
        show_json(results if model == "all" else results[model])


Seeds = Annotated[str, typer.Option(help="Numbers of the runs' randomness.", metavar="0,1,2")]


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--seeds {text!r}: write numbers with commas, 0,1,2") from error
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"--seeds {text!r}: a seed stands twice")
    return seeds


@app.command()
def controls(
    events: Events = None,
    items: Items = None,
    out: Out = None,
    seeds: Seeds = "0,1,2",
    only: Annotated[
        str, typer.Option(help="Of the controls that are trained anew, only these.", metavar="A,B")
    ] = "",
    until: Until = None,
    tail: Tail = False,
    config: ConfigFile = None,
    device: Device = "cpu",
    tracking_uri: Tracking = None,
) -> None:
    """Measure what each part of SPARC is worth: one part changed at a time, over several seeds.

    Example: `sparc evaluate controls --events events.csv --items items.csv --out study`
    """
    with errors_as_one_line():
        _needed(events=events, items=items, out=out)
        numbers = _seeds(seeds)
        data, settings = _prepared(events, items, until, tail, config)
        from deploy.studies import studies, tracking
        from indexer.evaluation.ablations import TRAINED

        assert out is not None  # noqa: S101
        chosen = [name for name in only.split(",") if name]
        for name in chosen:
            if name not in TRAINED:
                raise ValueError(f"--only {name}: there are {', '.join(TRAINED)}")
        uri = tracking.address(settings, tracking_uri, out)
        studies.play_controls(
            data, settings, out, numbers, device=device, only=chosen, tracking_uri=uri
        )
        print((out / "controls.md").read_text(encoding="utf-8"), end="")


@app.command()
def intervals(
    events: Events = None,
    items: Items = None,
    out: Out = None,
    seeds: Seeds = "0",
    until: Until = None,
    tail: Tail = False,
    config: ConfigFile = None,
    device: Device = "cpu",
    tracking_uri: Tracking = None,
) -> None:
    """Measure quality against the publish interval: event day, week, month, never.

    Training goes on in all of them; only what is served is renewed at the interval.

    Example: `sparc evaluate intervals --events events.csv --items items.csv --out study`
    """
    with errors_as_one_line():
        _needed(events=events, items=items, out=out)
        numbers = _seeds(seeds)
        data, settings = _prepared(events, items, until, tail, config)
        from deploy.studies import studies, tracking

        assert out is not None  # noqa: S101
        uri = tracking.address(settings, tracking_uri, out)
        studies.play_intervals(data, settings, out, numbers, device=device, tracking_uri=uri)
        print((out / "intervals.md").read_text(encoding="utf-8"), end="")


@app.command()
def loo(
    interactions: Annotated[
        Path | None, typer.Option(help="RecBole's .inter, in time order.", metavar="FILE")
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(
            help="Titles and categories; only where its item ids are those of the sequences.",
            metavar="FILE",
        ),
    ] = None,
    out: Out = None,
    model: Annotated[
        str, typer.Option(help="sparc, the name of a peer, or all of them.", metavar="NAME|all")
    ] = "sparc",
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
    config: ConfigFile = None,
    device: Device = "cpu",
    again: Again = False,
    tracking_uri: Tracking = None,
) -> None:
    """Rank each user's last item among all, as published tables do.

    Example: `sparc evaluate loo --interactions beauty.inter --out results`
    """
    with errors_as_one_line():
        _needed(interactions=interactions, out=out)
        settings = configuration.load(config, written=False)
        configure_logging(settings.log_level)
        from deploy.studies import leave_one_out, runs, tracking

        assert interactions is not None and out is not None  # noqa: S101
        if model not in (*runs.NAMES, "all"):
            raise ValueError(f"--model {model}: there are {', '.join(runs.NAMES)} and all")
        uri = tracking.address(settings, tracking_uri, out)
        experiment = settings.evaluation.experiment
        results: dict[str, Any] = {}
        frozen = [name for name in runs.NAMES if name.endswith("_frozen")]  # nothing to freeze here
        names = [n for n in runs.NAMES if n not in frozen] if model == "all" else [model]
        for name in names:
            place = out / name if model == "all" else out
            report, fresh = leave_one_out.play(
                name, interactions, items, settings, place, seed=seed, device=device, again=again
            )
            if fresh:
                tracking.log_run(report, place, uri, experiment, {"command": "loo"})
            results[name] = report["test"]
        show_json(results if model == "all" else results[model])
