"""Downloads that resume, and that appear under their name only when they are whole.

    <name>.part        the bytes so far
    <name>.part.json   what they are part of: address, validator (ETag or date), length

A broken connection goes on by a Range request with If-Range: if the publisher's file has changed
since, or the server knows no ranges, it sends the whole file and the download starts over.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import httpx

from replay.datasets import find_dataset
from replay.errors import ReplayError

ATTEMPTS = 6
"""Consecutive attempts without a new byte before giving up."""
LONGEST_PAUSE = 30.0
TIMEOUT = httpx.Timeout(30.0)
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class _Part:
    """What an unfinished download is part of."""

    url: str
    validator: str
    length: int | None


class _TryAgain(Exception):
    """Something that another request may mend."""


def fetch(
    dataset: str,
    directory: Path,
    progress: Progress,
    client: httpx.Client | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Path, Path]:
    """Download the events and items of a dataset, unless they are there.

    Args:
        dataset: such as "amazon-2014-beauty".
        directory: where the files go, in a folder named after the dataset.
        progress: called with file name, bytes so far and bytes in all; may raise to stop.
        client: another HTTP client; it is closed at the end.
        sleep: called with seconds between attempts.

    Raises:
        ReplayError: if there is no such dataset, or it cannot be had.
    """
    found = find_dataset(dataset)
    folder = directory / dataset
    with client or httpx.Client(timeout=TIMEOUT, follow_redirects=True) as http:
        events, items = (
            download(url, folder / PurePosixPath(urlsplit(url).path).name, http, progress, sleep)
            for url in (found.events, found.items)
        )
    return events, items


def download(
    url: str,
    destination: Path,
    http: httpx.Client,
    progress: Progress,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Download one file, going on where an earlier attempt or run was broken off.

    Raises:
        ReplayError: if the server refuses it, stays away, or the disk is too small.
    """
    if destination.exists():
        return destination
    part = destination.with_name(destination.name + ".part")
    with _clear_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        failures = 0
        while True:
            before = _size(part)
            try:
                _attempt(url, part, http, lambda n, of: progress(destination.name, n, of))
                break
            except (_TryAgain, httpx.TransportError) as error:
                failures = 0 if _size(part) > before else failures + 1
                if failures == ATTEMPTS:
                    raise ReplayError(
                        f"{url}: {error or type(error).__name__}; tried {ATTEMPTS} times. Try "
                        "again later (it goes on where it was), or download it by other means and "
                        "give it as --events"
                    ) from error
                sleep(min(LONGEST_PAUSE, 2.0**failures))
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(destination)
        _description(part).unlink(missing_ok=True)
    return destination


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _description(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _known(part: Path, url: str) -> _Part | None:
    """What the bytes on disk are part of; None if they are no use."""
    try:
        known = _Part(**json.loads(_description(part).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return known if known.url == url and known.validator and part.exists() else None


def _attempt(
    url: str, part: Path, http: httpx.Client, progress: Callable[[int, int | None], None]
) -> None:
    """One request; returns when the file is whole."""
    known = _known(part, url)
    have = _size(part) if known else 0
    if known and known.length == have:
        return
    headers = {"Accept-Encoding": "identity"}
    if known and have:
        headers |= {"Range": f"bytes={have}-", "If-Range": known.validator}
    with http.stream("GET", url, headers=headers) as answer:
        if answer.status_code == httpx.codes.PARTIAL_CONTENT and known:
            start, length = _content_range(answer)
            if start != have or (known.length is not None and length != known.length):
                _description(part).unlink()
                raise _TryAgain("the server sent another part than was asked for")
            mode = "ab"
        elif answer.status_code == httpx.codes.OK:
            have, mode = 0, "wb"
            length = _length(answer)
            _refuse_page(url, answer)
            described = _Part(url, _validator(answer), length)
            part.unlink(missing_ok=True)
            _description(part).write_text(json.dumps(asdict(described)), encoding="utf-8")
        else:
            _refuse(url, answer, part)
        if length is not None and shutil.disk_usage(part.parent).free < length - have:
            raise ReplayError(
                f"{url} needs {(length - have) >> 20} MiB more than are free on the disk of "
                f"{part.parent}; free some"
            )
        with part.open(mode) as file:
            for block in answer.iter_raw():
                file.write(block)
                have += len(block)
                progress(have, length)
    if length is not None and have != length:
        raise _TryAgain(f"the connection ended after {have} of {length} bytes")


def _length(answer: httpx.Response) -> int | None:
    text = answer.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _content_range(answer: httpx.Response) -> tuple[int, int | None]:
    """Start and full length of `bytes 100-999/1000`; start -1 if it is something else."""
    unit, _, rest = answer.headers.get("Content-Range", "").partition(" ")
    span, _, length = rest.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes" or not start.isdigit():
        return -1, None
    return int(start), int(length) if length.isdigit() else None


def _validator(answer: httpx.Response) -> str:
    tag = answer.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")


def _refuse_page(url: str, answer: httpx.Response) -> None:
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise ReplayError(
            f"{url}: the server sent a web page instead of the file; look at it in a browser, "
            "download the file by other means and give it as --events"
        )


def _refuse(url: str, answer: httpx.Response, part: Path) -> None:
    """Raise for an answer that is no file."""
    status = f"{answer.status_code} {answer.reason_phrase}".strip()
    if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        _description(part).unlink(missing_ok=True)
        raise _TryAgain("the part on disk does not fit the file")
    if answer.status_code >= 500 or answer.status_code in (408, 425, 429):
        raise _TryAgain(f"the server answers {status}")
    raise ReplayError(
        f"{url}: the server answers {status}; the publisher may have moved it: download it by "
        "other means and give it as --events (and --items)"
    )


@contextmanager
def _clear_errors(destination: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ReplayError(f"no space left on the disk of {destination.parent}") from error
        raise ReplayError(f"{destination}: {error.strerror or error}") from error
