"""Where a user is still to be found: every place that holds something of users is looked at.

Topics are read from end to end, so this costs with what is kept. Of what is not text, arrays and
tables are read as what they are; of Flink's checkpoints, which only Flink reads, the eight bytes of
the user's number are looked for, so for a small number what is found may be something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import orjson
import pyarrow.compute as pc
import pyarrow.parquet as pq
import safetensors.numpy

from deploy.ingest.forgotten_users import ForgottenUsers
from deploy.privacy.history_stores import history_stores
from streaming.committed_topic import read_all
from streaming.kafka_clients import KafkaConnection
from streaming.topics import Topics

TEXT_SUFFIXES = frozenset({".json", ".jsonl", ".log", ".toml", ".csv", ".out"})
LARGEST_TEXT = 256 << 20


@dataclass(frozen=True)
class Found:
    """What one place holds of a user.

    Attributes:
        place: a topic, or a path in the data directory.
        what: of which kind, in words.
        count: how many.
        until: when it goes by itself, or what to do.
    """

    place: str
    what: str
    count: int
    until: str


@dataclass(frozen=True)
class User:
    """Whom to look for.

    Attributes:
        number: the user's number inside.
        text: as the log or the shop calls them; the number in decimal where that is a number.
    """

    number: int
    text: str

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Both, once each."""
        return tuple(dict.fromkeys((str(self.number), self.text)))

    def is_meant(self, key: bytes | None, value: bytes | None) -> bool:
        """Whether a record of a topic is this user's, or says so."""
        if key in self._keys:
            return True
        with suppress(ValueError, AttributeError):
            body = orjson.loads(value or b"")
            said = (body.get("user_id"), body.get("external_user_id"))
            if any(type(one) in (int, str) for one in said):
                return any(str(one).strip() in self.names for one in said)
        return any(map(self._pattern.search, (key or b"", value or b"")))  # what nobody can read

    def mentions(self, content: bytes) -> int:
        """How often text says `user`, or `user_id`, and means this one."""
        return len(self._in_text.findall(content))

    @cached_property
    def _keys(self) -> frozenset[bytes]:
        return frozenset(name.encode() for name in self.names)

    @cached_property
    def _pattern(self) -> re.Pattern[bytes]:
        names = b"|".join(re.escape(name.encode()) for name in self.names)
        return re.compile(rb"(?<![\w-])(?:" + names + rb")(?![\w-])")

    @cached_property
    def _in_text(self) -> re.Pattern[bytes]:
        names = b"|".join(re.escape(name.encode()) for name in self.names)
        return re.compile(rb"users?(?:_id)?[^\w-]{1,4}(?:" + names + rb")(?![\w-])")


def search(
    user: User, data_dir: Path, kafka: KafkaConnection, topics: Topics, checkpoints: Path | None
) -> Iterator[Found]:
    """Look everywhere.

    Args:
        user: whom to look for.
        data_dir: of the pipeline.
        kafka: where the topics are.
        topics: their names.
        checkpoints: of the Flink job; None where they are on no disk of this machine.

    Raises:
        KafkaUnavailable: if Kafka does not answer.
        OSError: if a file cannot be read.
    """
    yield from _in_topics(user, kafka, topics)
    yield from _in_histories(user, data_dir)
    if ForgottenUsers(data_dir).asked(user.number) is not None:
        yield Found("service/forgotten", "note of a request", 1, "3 days after the topics")
    yield from _in_answers(user, data_dir)
    yield from _in_training(user, data_dir)
    if checkpoints is not None:
        yield from _in_flink(user, checkpoints, data_dir)
    yield from _in_log(user, data_dir)
    yield from _in_text_files(user, data_dir)


def _in_topics(user: User, kafka: KafkaConnection, topics: Topics) -> Iterator[Found]:
    for topic in topics.of_users():
        count = sum(user.is_meant(one.key, one.value) for one in read_all(kafka, topic))
        if count:
            yield Found(
                f"topic {topic}",
                "records",
                count,
                "[privacy] keep_days after they came, or `sparc purge`",
            )


def _in_histories(user: User, data_dir: Path) -> Iterator[Found]:
    key = user.number.to_bytes(8, "big", signed=True)
    until = "a second or two after the request; if it stays, is the service running?"
    for folder, families in history_stores(data_dir):
        for family, what in (("users", "history"), ("forgotten", "request that was carried out")):
            if family in families and families[family].get(key) is not None:
                place = str(folder.relative_to(data_dir))
                yield Found(place, what, 1, until if family == "users" else "as its note")


def _in_answers(user: User, data_dir: Path) -> Iterator[Found]:
    count = 0
    for path in (data_dir / "service" / "answers").glob("*.parquet"):
        with suppress(FileNotFoundError):  # it is rewritten, or was the oldest
            asked = pq.read_table(path, columns=["user_id"])["user_id"]
            count += pc.sum(pc.equal(asked, user.number)).as_py() or 0
    if count:
        yield Found(
            "service/answers", "answers", count, "seconds after the request; later ones are new"
        )


def _in_training(user: User, data_dir: Path) -> Iterator[Found]:
    seen: set[int] = set()
    for path in sorted((data_dir / "trainer" / "checkpoints").glob("*/rows-*.safetensors")):
        with suppress(FileNotFoundError):
            if path.stat().st_ino in seen:
                continue
            seen.add(path.stat().st_ino)
            arrays = safetensors.numpy.load_file(path)
            for name, what in (
                ("positions.users", "last position"),
                ("learner.replay.users", "examples in the replay buffer"),
            ):
                if name in arrays and (count := int((arrays[name] == user.number).sum())):
                    place = str(path.relative_to(data_dir))
                    yield Found(place, what, count, "two minutes after the request")


def _in_flink(user: User, checkpoints: Path, data_dir: Path) -> Iterator[Found]:
    number = user.number.to_bytes(8, "big", signed=True)
    for path in sorted(checkpoints.rglob("*")):
        with suppress(FileNotFoundError):
            if path.is_file() and (count := path.read_bytes().count(number)):
                place = path.relative_to(data_dir) if path.is_relative_to(data_dir) else path
                yield Found(
                    str(place),
                    "places in the job's state",
                    count,
                    "the third checkpoint after the request; a savepoint with the next one",
                )


def _in_log(user: User, data_dir: Path) -> Iterator[Found]:
    for path in (data_dir / "replay").glob("log-*/events.parquet"):
        users = pq.read_table(path, columns=["user_id"])["user_id"]
        if count := pc.sum(pc.equal(users, user.number)).as_py():
            yield Found(
                str(path.relative_to(data_dir)),
                "events of the log that was replayed",
                count,
                "yours: take them out of the log; this copy of it goes with --fresh",
            )


def _in_text_files(user: User, data_dir: Path) -> Iterator[Found]:
    """Logs, statuses, records of decisions, micro-batches set aside."""
    for path in _texts(data_dir):
        with suppress(FileNotFoundError):
            if path.stat().st_size > LARGEST_TEXT:
                continue
            content = path.read_bytes()
            count = user.mentions(content)
            if "quarantine" in path.parts and user.number in _users(content):
                count = max(count, 1)
            if count:
                yield Found(
                    str(path.relative_to(data_dir)), "mentions", count, "logs are cut at 20 MB"
                )


def _users(content: bytes) -> Iterable[int]:
    try:
        users: list[int] = orjson.loads(content)["users"]
        return users
    except (ValueError, KeyError, TypeError):
        return ()


def _texts(data_dir: Path) -> Iterator[Path]:
    elsewhere = {"kafka", "snapshots", "handover", "mlflow", "downloads", "forgotten"}
    for top in sorted(data_dir.iterdir()):
        if top.name in elsewhere or top.is_symlink():
            continue
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.suffix in TEXT_SUFFIXES and path.is_file() and not path.is_symlink():
                yield path
