"""`sparc forget` and `sparc purge`: a user who is to be forgotten, and topics that go sooner."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from deploy import settings as configuration
from deploy.commands.console import errors_as_one_line, show_json
from deploy.commands.options import ConfigFile, DataDir

if TYPE_CHECKING:
    from deploy.settings import Settings
    from streaming.events import Click

PATIENCE_S = 10.0


def forget(
    user: Annotated[str, typer.Argument(help="A user, as the log or the shop calls them.")],
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Only look where the user is still to be found; 1 if anywhere."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --verify: one JSON object per place.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Forget a user: no answer uses what they did from now on, and in time nothing is left of it.

    Examples: `sparc forget A39HTATAQ9V7YF`, `sparc forget --verify A39HTATAQ9V7YF`
    """
    from deploy.http.shop_ids import number_of
    from deploy.ingest.forgotten_users import ForgottenUsers, request

    if verify:
        _verify(user, as_json, config, data_dir)
        return
    with errors_as_one_line():
        asked = request(number_of(user), uuid.uuid4().hex)
        settings = configuration.load(config, data_dir)
        _send(settings, asked)
        ForgottenUsers(settings.data_dir).note(asked)
    print(
        f"Kafka has the request: no answer uses what user {user} did any more, and the pipeline "
        "forgets it (docs/PRIVACY.md says where and until when)"
    )


def _verify(user: str, as_json: bool, config: ConfigFile, data_dir: DataDir) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from deploy.http.shop_ids import number_of
    from deploy.privacy.search import User, search
    from streaming.job.savepoints import local_path

    with errors_as_one_line():
        whom = User(number_of(user), user.strip())
        settings = configuration.load(config, data_dir)
        flink = local_path(settings.job_environment().checkpoints)
        found = list(
            search(
                whom, settings.data_dir, settings.kafka_connection, settings.kafka.topics(), flink
            )
        )
    if as_json:
        for one in found:
            show_json(asdict(one))
    elif found:
        table = Table("place", "what", "count", "until", box=SIMPLE)
        for one in found:
            table.add_row(escape(one.place), one.what, f"{one.count:,}", escape(one.until))
        Console().print(table)
    else:
        print(f"user {user} is nowhere in {settings.data_dir} and its topics")
    if flink is None:
        print("the job's checkpoints are not on this machine, and were not looked at")
    if found:
        raise typer.Exit(1)


def purge(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Delete clicks, sequences, late clicks and dead letters that every part has read.

    Everybody's go, since Kafka deletes from the beginning. Nothing that was learnt or is known of
    users goes with them; but a state that is lost after it is built from what came since.

    Example: `sparc purge --yes`
    """
    from kafka.errors import KafkaError

    from deploy.commands.job_supervision import check_cluster
    from deploy.privacy.purge import purge as delete
    from streaming.errors import StreamingError

    with errors_as_one_line():
        settings = configuration.load(config, data_dir)
        kafka, topics = settings.kafka_connection, settings.kafka.topics()
        if not yes and not typer.confirm(
            f"Delete what has been read of {topics.clicks}, {topics.sequences}, late clicks and "
            f"dead letters at {kafka.bootstrap}? They cannot be brought back."
        ):
            raise typer.Exit(1)
        check_cluster(settings)
        try:
            done = delete(settings.data_dir, kafka, topics, settings.streaming.name)
        except KafkaError as error:
            raise StreamingError(
                f"Kafka at {kafka.bootstrap} has not deleted all of it ({error}); say it again: "
                "it needs the rights to alter and to delete, and transactional ids that begin with "
                "sparc-purge-"
            ) from error
    for topic, count in done.records.items():
        left = done.waiting[topic]
        print(
            f"{topic}: {count:,} offsets deleted" + (f", {left:,} are yet to be read" * bool(left))
        )


def _send(settings: Settings, asked: Click) -> None:
    """Write the request among the user's clicks.

    Raises:
        StreamingError: if Kafka does not take it, or is another one.
    """
    from kafka.errors import KafkaError

    from deploy.commands.job_supervision import check_cluster
    from streaming.errors import StreamingError

    kafka, topic = settings.kafka_connection, settings.kafka.topics().clicks
    check_cluster(settings)
    with kafka.answering():
        producer = kafka.producer(max_block_ms=int(1000 * PATIENCE_S))
    try:
        sent = producer.send(topic, asked.to_bytes(), asked.key())
        sent.get(timeout=PATIENCE_S)
    except KafkaError as error:
        raise StreamingError(
            f"Kafka at {kafka.bootstrap} has not taken the request ({error}): nothing is forgotten "
            "yet; say it again"
        ) from error
    finally:
        producer.close(timeout=1)
