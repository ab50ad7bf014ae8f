from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from replay import datasets, download
from replay.datasets import DATASETS, Dataset, find_dataset
from replay.errors import ReplayError

CONTENT = bytes(range(256)) * 4096


@dataclass
class Publisher:
    """An HTTP server whose failures can be chosen."""

    address: str = ""
    content: bytes = CONTENT
    etag: str | None = '"v1"'
    ranges: bool = True
    length: bool = True
    status: list[int] = field(default_factory=list)
    break_after: list[int] = field(default_factory=list)
    content_type: str = "application/gzip"
    requests: list[dict[str, str]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        p: Publisher = self.server.publisher  # type: ignore[attr-defined]
        p.requests.append(dict(self.headers))
        if p.status:
            self.send_response(p.status.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        wanted = self.headers.get("Range")
        if wanted and p.ranges and self.headers.get("If-Range") == p.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(p.content):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            end = len(p.content) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(p.content)}")
        else:
            self.send_response(200)
        if p.etag:
            self.send_header("ETag", p.etag)
        if p.length:
            self.send_header("Content-Length", str(len(p.content) - start))
        self.send_header("Content-Type", p.content_type)
        self.end_headers()
        body = p.content[start:]
        if p.break_after:
            body = body[: p.break_after.pop(0)]
            self.close_connection = True
        self.wfile.write(body)


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.publisher = Publisher(f"http://127.0.0.1:{server.server_port}/logs")  # type: ignore
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.publisher  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Download:
    publisher: Publisher
    folder: Path
    pauses: list[float] = field(default_factory=list)
    progress: list[tuple[str, int, int | None]] = field(default_factory=list)

    @property
    def part(self) -> Path:
        return self.folder / "x.csv.part"

    def __call__(self) -> bytes:
        with httpx.Client(trust_env=False) as http:
            return download.download(
                f"{self.publisher.address}/x.csv",
                self.folder / "x.csv",
                http,
                lambda *seen: self.progress.append(seen),
                self.pauses.append,
            ).read_bytes()


@pytest.fixture
def get(publisher: Publisher, tmp_path: Path) -> Download:
    return Download(publisher, tmp_path / "new" / "folder")


def test_a_file_arrives_whole_with_progress_and_is_not_fetched_again(publisher, get):
    assert get() == CONTENT
    assert get.progress[-1] == ("x.csv", len(CONTENT), len(CONTENT))
    assert [p.name for p in get.folder.iterdir()] == ["x.csv"]
    assert get() == CONTENT
    assert len(publisher.requests) == 1
    assert publisher.requests[0]["Accept-Encoding"] == "identity"


def test_a_broken_connection_goes_on_where_it_was(publisher, get):
    publisher.break_after = [300_000, 400_000]
    assert get() == CONTENT
    assert [r.get("Range") for r in publisher.requests] == [
        None,
        "bytes=300000-",
        "bytes=700000-",
    ]
    assert publisher.requests[1]["If-Range"] == '"v1"'


def test_another_run_goes_on_where_a_stopped_one_was(publisher, get):
    class Stop(Exception):
        pass

    def stop(name: str, done: int, total: int | None) -> None:
        if done > 400_000:
            raise Stop

    with httpx.Client(trust_env=False) as http, pytest.raises(Stop):
        download.download(f"{publisher.address}/x.csv", get.folder / "x.csv", http, stop)
    have = get.part.stat().st_size
    assert not (get.folder / "x.csv").exists()
    assert 0 < have < len(CONTENT)
    assert get() == CONTENT
    assert publisher.requests[1]["Range"] == f"bytes={have}-"


def test_a_server_that_ignores_ranges_sends_everything_again(publisher, get):
    publisher.ranges = False
    publisher.break_after = [300_000]
    assert get() == CONTENT


def test_a_file_that_changed_at_the_publisher_starts_over(publisher, get):
    publisher.break_after = [300_000]

    def change(seconds: float) -> None:
        publisher.etag, publisher.content = '"v2"', CONTENT[::-1]

    with httpx.Client(trust_env=False) as http:
        url = f"{publisher.address}/x.csv"
        path = download.download(url, get.folder / "x.csv", http, lambda *_: None, change)
    assert path.read_bytes() == CONTENT[::-1]


def test_without_a_validator_nothing_is_patched_together(publisher, get):
    publisher.etag = None
    publisher.break_after = [300_000]
    assert get() == CONTENT
    assert all("Range" not in request for request in publisher.requests)


def test_a_file_of_unknown_length_arrives(publisher, get):
    publisher.length = False
    assert get() == CONTENT
    assert get.progress[-1] == ("x.csv", len(CONTENT), None)


def test_a_part_that_was_already_whole_is_taken(publisher, get):
    publisher.break_after = [len(CONTENT) - 1]
    assert get() == CONTENT
    (get.folder / "x.csv").rename(get.part)
    (get.folder / "x.csv.part.json").write_text(
        f'{{"url": "{publisher.address}/x.csv", "validator": "\\"v1\\"", "length": {len(CONTENT)}}}'
    )
    assert get() == CONTENT
    assert len(publisher.requests) == 2


def test_a_busy_server_is_asked_again_after_a_pause(publisher, get):
    publisher.status = [503, 429, 500]
    assert get() == CONTENT
    assert get.pauses == [2, 4, 8]


def test_a_server_that_stays_broken_is_given_up_and_the_part_kept(publisher, get):
    publisher.break_after = [300_000]

    def break_down(seconds: float) -> None:
        publisher.status = [503] * 20

    with (
        httpx.Client(trust_env=False) as http,
        pytest.raises(
            ReplayError, match=r"503.*tried 6 times\. Try again later \(it goes on where it was\)"
        ),
    ):
        url = f"{publisher.address}/x.csv"
        download.download(url, get.folder / "x.csv", http, lambda *_: None, break_down)
    assert get.part.stat().st_size == 300_000


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_file_that_is_not_there_is_a_clear_error_at_once(publisher, get, status):
    publisher.status = [status]
    with pytest.raises(ReplayError, match=rf"/x\.csv: the server answers {status} .*--events"):
        get()
    assert (len(publisher.requests), get.pauses) == (1, [])
    assert list(get.folder.iterdir()) == []


def test_a_web_page_is_not_taken_for_a_log(publisher, get):
    publisher.content_type = "text/html; charset=utf-8"
    with pytest.raises(ReplayError, match="a web page instead of the file"):
        get()
    assert list(get.folder.iterdir()) == []


def test_nobody_there_is_a_clear_error(publisher, get):
    publisher.address = "http://127.0.0.1:1"
    with pytest.raises(ReplayError, match="tried 6 times"):
        get()


def test_a_disk_that_is_too_small_is_told_before_it_is_full(publisher, get, monkeypatch):
    class Usage:
        free = 1000

    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(ReplayError, match="needs 1 MiB more than are free"):
        get()


def test_a_dataset_is_its_events_and_its_items(publisher, tmp_path, monkeypatch):
    here = Dataset(f"{publisher.address}/ratings_X.csv", f"{publisher.address}/meta_X.json.gz")
    monkeypatch.setitem(datasets.DATASETS, "amazon-2014-x", here)
    http = httpx.Client(trust_env=False)
    events, items = download.fetch("amazon-2014-x", tmp_path, lambda *_: None, http)
    assert (events, items) == (
        tmp_path / "amazon-2014-x" / "ratings_X.csv",
        tmp_path / "amazon-2014-x" / "meta_X.json.gz",
    )


def test_published_addresses():
    assert find_dataset("amazon-2014-beauty") == Dataset(
        "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/ratings_Beauty.csv",
        "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/meta_Beauty.json.gz",
    )
    assert find_dataset("amazon-2018-video-games-5core").events.endswith(
        "/amazon_v2/categoryFilesSmall/Video_Games_5.json.gz"
    )
    assert find_dataset("amazon-2023-all-beauty").items.endswith("/meta_All_Beauty.jsonl.gz")
    assert len(DATASETS) == 2 * (24 + 29 + 33)


def test_an_unknown_dataset_is_answered_with_similar_names():
    with pytest.raises(ReplayError, match="did you mean amazon-2014-beauty"):
        find_dataset("amazon-2014-beuty")
    with pytest.raises(ReplayError, match="try amazon-2014-beauty"):
        find_dataset("zzz")
