"""The `sparc` command: the whole pipeline, or one part of it, and questions to a running one."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import orjson
import structlog
import typer

from deploy import settings as configuration
from deploy.commands import doctor_command, evaluate, versions
from deploy.commands import stream as stream_cli
from deploy.monitoring import full_disk
from deploy.monitoring.part_status import read_status, reporter
from deploy.private import keep_private
from streaming.secret import cleaned

log = structlog.get_logger(__name__)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a bug shows a plain traceback, fit for a log
    rich_markup_mode="markdown",
    help="Learns a recommender's retrieval stage while it serves.",
)
config_app = typer.Typer(no_args_is_help=True, help="The effective configuration.")
app.add_typer(config_app, name="config")
app.add_typer(stream_cli.stream_app, name="stream")
app.add_typer(stream_cli.dead_letters_app, name="dlq")
app.add_typer(evaluate.app, name="evaluate")
versions.add_to(app)
doctor_command.add_to(app)

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file.", metavar="FILE")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="State of the pipeline; default: that of the last one.", metavar="DIR"),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]


LONGEST_MESSAGE = 2000


def fail(message: str, code: int = 1) -> typer.Exit:
    """Print one clear line and give the exception that ends the command."""
    message = cleaned(message)  # whole, before anything is cut out of it
    if len(message) > LONGEST_MESSAGE:  # it quotes what was given; the remedy is at the end
        half = LONGEST_MESSAGE // 2
        message = f"{message[:half]} … {message[-half:]}"
    print(f"error: {message}", file=sys.stderr, flush=True)
    return typer.Exit(code)


class Cleaned:
    """A text stream that shows no secret, whoever writes: our logs, libraries, tracebacks.

    What cannot be written is dropped: nobody ends because the disk of the log is full.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text with secrets masked."""
        with suppress(OSError):
            self._stream.write(cleaned(text))
        return len(text)

    def flush(self) -> None:
        """Write out what is buffered."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@app.callback()
def begin() -> None:
    """Learns a recommender's retrieval stage while it serves."""
    if not isinstance(sys.stderr, Cleaned):
        sys.stderr = Cleaned(sys.stderr)  # type: ignore[assignment]


@contextmanager
def errors_as_one_line() -> Iterator[None]:
    """Turn what a user can mend into one line and exit code 1; bugs keep their traceback."""
    try:
        yield
    except Exception as error:
        if full_disk.is_full(error):
            sentence = full_disk.sentence(full_disk.where(error, Path.cwd()))
            raise fail(sentence.replace("it goes on by itself", "start again")) from error
        if isinstance(error, OSError):
            raise fail(str(error)) from error
        if not isinstance(error, (ValueError, RuntimeError)) or os.environ.get("SPARC_TRACEBACK"):
            raise
        raise fail(" ".join(str(error).split())) from error


def configure_logging(level: str) -> None:
    """Structured logs on standard error: one JSON object per line unless on a terminal."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def run_part(
    name: str,
    settings: configuration.Settings,
    body: Callable[[threading.Event, Callable[[dict[str, Any]], None]], Any],
    *,
    begins_anew: bool = True,
) -> None:
    """Run one long-lived part until it ends or SIGTERM or SIGINT asks it to.

    Where its disk is full it waits for room, and then begins anew, unless it may not begin twice
    with the arguments that it was given.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    configure_logging(settings.log_level)
    report = reporter(settings.data_dir, name)
    with errors_as_one_line():
        try:
            keep_private(settings.data_dir)
            body(stop, report)
        except Exception as error:
            if stop.is_set() or not begins_anew or not full_disk.is_full(error):
                raise
            directory = full_disk.where(error, settings.data_dir)
            log.error("waiting for room", part=name, reason=full_disk.sentence(directory))
            last = read_status(settings.data_dir, name) | {"caught_up": False}

            def tell(sentence: str) -> None:
                report({**last, "state": "waiting for room", "problem": sentence})

            if full_disk.await_room(directory, stop, tell):
                full_disk.begin_anew()


def show_json(value: Any) -> None:
    """Print a value as one JSON object on one line."""
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
    sys.stdout.flush()


@config_app.command("show")
def config_show(
    config: ConfigFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Print the effective configuration: flags, `SPARC_...` variables, TOML file, defaults.

    Secrets are shown as asterisks; a file made of it needs them put in.

    Example: `sparc config show > sparc.toml`
    """
    with errors_as_one_line():
        settings = configuration.load(config, data_dir)
        if as_json:
            show_json(configuration.complete(settings))
        else:
            print(configuration.as_toml(configuration.complete(settings)), end="")


def _part(name: str, config: Path | None, data_dir: Path | None, **more: Any) -> None:
    from deploy.commands import parts

    with errors_as_one_line():
        settings = configuration.load(config, data_dir)
    run_part(
        name, settings, lambda stop, report: getattr(parts, name)(settings, stop, report, **more)
    )


@app.command()
def replay(
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Replay the configured log into Kafka; ends when the log does.

    Example: `SPARC_REPLAY__EVENTS=ratings_Beauty.csv sparc replay --data-dir state`
    """
    _part("replay", config, data_dir)


@app.command()
def train(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Train online from `sequences` and publish what was learnt, on a GPU where there is one.

    Example: `SPARC_TRAINER__BATCH_SIZE=512 sparc train --data-dir state`
    """
    _part("train", config, data_dir)


@app.command()
def index(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Index new items and each handover of the trainer; publish snapshots.

    Example: `sparc index --data-dir state`
    """
    _part("index", config, data_dir)


@app.command()
def register(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Register each snapshot as a version of the model in MLflow, and move the aliases.

    Example: `SPARC_REGISTRY__TRACKING_URI=http://mlflow:5000 sparc register --data-dir state`
    """
    _part("register", config, data_dir)


@app.command()
def serve(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    worker: Annotated[
        int,
        typer.Option(help="Which of the `service.workers` that share the port this one is.", min=1),
    ] = 1,
) -> None:
    """Answer queries over HTTP from the snapshot that is current.

    Example: `SPARC_PORTS__SERVICE=8000 sparc serve --data-dir state`
    """
    _part("serve", config, data_dir, worker=worker)


@app.command()
def up(
    events: Annotated[
        Path | None,
        typer.Option(
            help="The log, in any of the known formats, plain or gzipped; without one a synthetic "
            "log is made.",
            metavar="FILE",
        ),
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help="Its catalogue: titles, categories.", metavar="FILE")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="A published log to download, such as amazon-2014-beauty."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Events per second; 0 for no limit.", min=0)
    ] = None,
    speedup: Annotated[
        float | None, typer.Option(help="Event time per real time, as a factor.", min=0.001)
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first bad line of the log.")
    ] = False,
    drain: Annotated[
        bool,
        typer.Option(
            "--drain",
            help="Follow the log to its end through every part, print a summary as one JSON "
            "object on the last line, and stop.",
        ),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew: forget what this log's pipeline learnt.")
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="State of the pipeline; default: one per log in data/.", metavar="DIR"),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Run the whole pipeline on this machine, supervised, until Ctrl-C (or, with --drain, the end).

    Examples:
    `sparc up` makes its own log;
    `sparc up --events ratings_Beauty.csv --items meta_Beauty.json.gz --speedup 100000`;
    `sparc up --dataset amazon-2014-beauty --drain`
    """
    from deploy.local import launch as room

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    configure_logging("warning")
    with errors_as_one_line():
        summary = room.run(
            room.Wish(
                events=events,
                items=items,
                dataset=dataset,
                rate=rate,
                speedup=speedup,
                strict=strict,
                drain=drain,
                fresh=fresh,
                data_dir=data_dir,
                config=config,
            ),
            stop,
        )
    if summary is not None:
        show_json(summary)


@app.command()
def status(config: ConfigFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show health, lag, freshness and versions of every part of the last pipeline.

    Example: `sparc status --json`
    """
    from deploy.commands import status as questions

    with errors_as_one_line():
        settings = configuration.load(config, data_dir)
        facts = questions.status(settings)
        if as_json:
            show_json(facts)
        else:
            questions.show_status(facts)


@app.command()
def retrieve(
    user: Annotated[
        str | None, typer.Option(help="A user of the log, as it is called there.", metavar="ID")
    ] = None,
    history: Annotated[
        str | None, typer.Option(help="Item ids instead, oldest first: 12,7,B000AAAAAA.")
    ] = None,
    k: Annotated[int, typer.Option(help="Number of items.", min=1, max=500)] = 50,
    codes: Annotated[int | None, typer.Option(help="Number of codes to search.", min=1)] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Ask the running service for items, and show which interests brought them.

    Examples: `sparc retrieve --user 42 --k 10`, `sparc retrieve --history 12,7 --codes 4 --json`
    """
    from deploy.commands import status as questions

    with errors_as_one_line():
        settings = configuration.load(config, data_dir)
        answer = questions.retrieve(settings, user, history, k, codes)
        if as_json:
            show_json(answer)
        else:
            questions.show_answer(answer)


@app.command()
def snapshots(config: ConfigFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the published snapshots with their versions and aliases in the registry.

    Example: `sparc snapshots`
    """
    from deploy.commands import status as questions

    with errors_as_one_line():
        settings = configuration.load(config, data_dir)
        found = questions.snapshots(settings)
        if as_json:
            show_json(found)
        else:
            questions.show_snapshots(found)
