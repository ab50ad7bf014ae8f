"""Which Kafka a state on disk comes from: its cluster, and its topics by their ids.

An offset counts in one topic. A topic that was deleted and created again has the same name and
other records, and soon it is longer than the offset where a reader was: to read on there would
skip what it holds before, and nothing would ever tell. But it has another id (KIP-516), and a
broker of another cluster, which may have come to listen on the same port, has another cluster id.

    <data_dir>/kafka.json            the cluster; every part compares it, the first one records it
    <data_dir>/<part>/topics.json    the topics that the part's state comes from, beside that state

Both are written before the first record is read, and never changed. A state without them, of an
earlier version, takes the ids that are found. Readers look again after each read and before they
use what they have read, so that a topic that is recreated under their hands is noticed, too.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
from kafka import KafkaAdminClient
from kafka.errors import KafkaError, UnknownTopicOrPartitionError, for_code

from streaming.durable_files import PARTIAL, sync_path, write_atomically
from streaming.errors import StreamingError
from streaming.kafka_clients import KafkaConnection

CLUSTER_FILE = "kafka.json"
TOPICS_FILE = "topics.json"
IDLE_SECONDS = 2.0
"""How often one looks while nothing is read."""
GONE_LOOKS = 6
GONE_PAUSE = 0.5
"""A topic counts as deleted when it is missing so often, so many seconds apart."""
NO_ID = "00000000-0000-0000-0000-000000000000"
"""What a broker before 2.8 says of a topic."""
BOOTSTRAP_MS = 1000
"""Who looks has other work that goes on without Kafka."""


class ForeignKafkaError(StreamingError):
    """A topic, or the whole cluster, is not the one that the state comes from."""


def recorded_cluster(data_dir: Path) -> str | None:
    """The id of the cluster that a data directory's state comes from; None before the first.

    Raises:
        ForeignKafkaError: if the record is damaged.
    """
    body = _read(data_dir / CLUSTER_FILE)
    return None if body is None else str(body.get("cluster_id"))


def claim_cluster(data_dir: Path, cluster: str, where: str) -> None:
    """Record the cluster of a data directory, or compare it with the one on record.

    Args:
        data_dir: the pipeline's data directory.
        cluster: the id that was found.
        where: where it was found, for the message.

    Raises:
        ForeignKafkaError: if the state comes from another cluster.
    """
    known = recorded_cluster(data_dir)
    if known is None:
        _write_once(data_dir / CLUSTER_FILE, {"cluster_id": cluster})
        known = recorded_cluster(data_dir)  # of several parts, the first one's word counts
    if known != cluster:
        raise ForeignKafkaError(
            f"another Kafka cluster: {data_dir} comes from cluster {known}, and {where} is cluster "
            f"{cluster}; correct the address (has another pipeline taken the port?), bring the old "
            "cluster back, or begin anew with --fresh or another --data-dir"
        )


def check_before_creation(
    data_dir: Path,
    admin: KafkaAdminClient,
    where: str,
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Before topics are created: is this the cluster, and is nothing gone that was read?

    A topic that was deleted would else be created again, and nobody would learn that it was.

    Raises:
        ForeignKafkaError: if it is another cluster, or a topic that is on record is missing.
        KafkaError: if Kafka does not answer.
    """
    _claim_cluster_of(admin, data_dir, where)
    recorded = {
        topic["name"]: path
        for depth in ("*", "*/*")  # a worker of the service has a folder in the service's
        for path in data_dir.glob(f"{depth}/{TOPICS_FILE}")
        for topic in (_read(path) or {}).values()
    }
    missing = set(recorded)
    for _ in range(GONE_LOOKS):
        missing = recorded.keys() - set(admin.list_topics())
        if not missing:
            return
        pause(GONE_PAUSE)
    name = min(missing)
    raise ForeignKafkaError(
        f"topic {name!r} was deleted, and state was read from it ({recorded[name]}): restore it "
        "with its id, or begin anew with --fresh"
    )


class TopicIdentity:
    """The topics that one part's state comes from.

    Args:
        data_dir: the pipeline's data directory.
        part: folder in it that holds the state.
        kafka: where they are now.
        topics: what the part calls a topic -> its name.
        remedy: how this part begins anew, for the message.
        pause: called with seconds.
    """

    def __init__(
        self,
        data_dir: Path,
        part: str,
        kafka: KafkaConnection,
        topics: Mapping[str, str],
        remedy: str = "begin anew with --fresh",
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._data_dir = data_dir
        self._path = data_dir / part / TOPICS_FILE
        self._kafka = kafka
        self._topics = dict(topics)
        self._remedy = remedy
        self._pause = pause
        self._admin: KafkaAdminClient | None = None
        self._looked = float("-inf")

    def check(self, *, idle: bool = False) -> None:
        """Compare what Kafka has now with what is on record; record what is not yet.

        Args:
            idle: nothing was read since; look only if the last look is `IDLE_SECONDS` ago.

        Raises:
            ForeignKafkaError: naming the topic, both ids, and what to do.
            KafkaError: if Kafka does not answer; nothing is known then.
        """
        if idle and time.monotonic() - self._looked < IDLE_SECONDS:
            return
        try:
            self._check()
        except (KafkaError, ForeignKafkaError):
            self.close()
            raise
        finally:
            self._looked = time.monotonic()

    def forget(self) -> None:
        """Begin anew: the next check records the topics that there are."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the connection."""
        if self._admin is not None:
            self._admin.close()
        self._admin = None

    def _check(self) -> None:
        if self._admin is None:
            self._admin = self._kafka.admin(bootstrap_timeout_ms=BOOTSTRAP_MS)
            self._check_cluster()
        if not self._topics:
            return self._check_cluster()
        known = self._known()
        found = self._found()
        for _ in range(GONE_LOOKS):
            if all(role in found for role in known):
                break
            self._check_cluster()
            self._pause(GONE_PAUSE)  # a broker that has just started may not know all of them
            found = self._found()
        for role, recorded in known.items():
            if found.get(role) not in (recorded["id"], NO_ID):
                self._check_cluster()
                raise ForeignKafkaError(self._other_topic(role, recorded, found.get(role)))
        added = {
            role: {"name": self._topics[role], "id": identity}
            for role, identity in found.items()
            if role not in known and identity != NO_ID
        }
        if added:
            _replace(self._path, {**known, **added})

    def _check_cluster(self) -> None:
        assert self._admin is not None  # noqa: S101 - see _check
        where = f"the Kafka at {self._kafka.bootstrap}"
        _claim_cluster_of(self._admin, self._data_dir, where)

    def _known(self) -> dict[str, dict[str, str]]:
        body = _read(self._path) or {}
        return {role: topic for role, topic in body.items() if role in self._topics}

    def _found(self) -> dict[str, str]:
        """The ids of the topics that exist."""
        assert self._admin is not None  # noqa: S101 - see _check
        ids = {}
        for topic in self._admin.describe_topics(list(self._topics.values())):
            if topic["error_code"] == 0:
                ids[topic["name"]] = str(topic["topic_id"] or NO_ID)
            elif topic["error_code"] != UnknownTopicOrPartitionError.errno:
                raise for_code(topic["error_code"])(f"topic {topic['name']!r}")
        return {role: ids[name] for role, name in self._topics.items() if name in ids}

    def _other_topic(self, role: str, recorded: Mapping[str, str], found: str | None) -> str:
        name = self._topics[role]
        place = f"{self._path} is of topic {recorded['name']!r} with the id {recorded['id']}"
        if found is None:
            what = f"topic {name!r} was deleted"
        elif recorded["name"] == name:
            what = f"topic {name!r} was deleted and created again: it now has the id {found}"
        else:
            what = f"topic {name!r}, with the id {found}, is another topic"
        return (
            f"{what}, and the state in {place}; the offsets of one mean nothing in the other: "
            f"restore the topic with its id (or the name), or {self._remedy}"
        )


def _claim_cluster_of(admin: KafkaAdminClient, data_dir: Path, where: str) -> None:
    cluster = admin.describe_cluster().get("cluster_id")
    if cluster:  # Kafka before 0.10.1 has none
        claim_cluster(data_dir, cluster, where)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        body = orjson.loads(path.read_bytes())
        if not isinstance(body, dict):
            raise ValueError("no JSON object")
        return body
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ForeignKafkaError(
            f"{path}: unreadable ({error}); delete it if you are sure that the state beside it "
            "comes from the Kafka that is configured, else restore it or begin anew with --fresh"
        ) from error


def _replace(path: Path, body: Mapping[str, Any]) -> None:
    write_atomically(path, orjson.dumps(body, option=orjson.OPT_INDENT_2))


def _write_once(path: Path, body: Mapping[str, Any]) -> None:
    """Write a file that nobody has written before; else leave it as it is."""
    partial = path.with_name(f"{PARTIAL}{path.name}-{os.getpid()}-{threading.get_ident()}-once")
    _replace(partial, body)
    try:
        os.link(partial, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_path(path.parent)
