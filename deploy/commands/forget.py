"""`sparc forget`: a user who is to be forgotten."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated

import typer

from deploy import settings as configuration
from deploy.commands.console import errors_as_one_line
from deploy.commands.options import ConfigFile, DataDir

if TYPE_CHECKING:
    from deploy.settings import Settings
    from streaming.events import Click

PATIENCE_S = 10.0


def forget(
    user: Annotated[str, typer.Argument(help="A user, as the log or the shop calls them.")],
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Forget a user: no answer uses what they did from now on, and in time nothing is left of it.

    Examples: `sparc forget A39HTATAQ9V7YF`, `sparc forget --data-dir state 42`
    """
    from deploy.http.shop_ids import number_of
    from deploy.ingest.forgotten_users import ForgottenUsers, request

    with errors_as_one_line():
        asked = request(number_of(user), uuid.uuid4().hex)
        settings = configuration.load(config, data_dir)
        _send(settings, asked)
        ForgottenUsers(settings.data_dir).note(asked)
    print(
        f"Kafka has the request: no answer uses what user {user} did any more, and the pipeline "
        "forgets it (docs/PRIVACY.md says where and until when)"
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
