"""The lines of a text file, plain or gzipped, in UTF-8 or UTF-16, told apart by content.

Lines are numbered from 1 in the unpacked text, and their length is bounded, so that a file of
another kind cannot fill the memory.
"""

from __future__ import annotations

import codecs
import gzip
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from replay.errors import ReplayError

LONGEST_LINE = 16 * 1024 * 1024
BLOCK = 1024 * 1024
BYTE_ORDER_MARK = codecs.BOM_UTF8
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
GZIP = b"\x1f\x8b"
FOREIGN = {
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"BZh": "compressed with bzip2; unpack it first (bunzip2)",
    b"\xfd7zXZ\x00": "compressed with xz; unpack it first (unxz)",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it first (unzstd)",
    b"PAR1": "a Parquet file; write it as CSV with the columns user_id,item_id,time",
    b"<!DO": "an HTML page, not a log (an error page that was saved?); download it again",
    b"<htm": "an HTML page, not a log (an error page that was saved?); download it again",
}


def check_file(path: Path) -> None:
    """Refuse what is no regular file: a log is read more than once.

    Raises:
        ReplayError: saying what it is, and the remedy.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise ReplayError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise ReplayError(f"{path}: {error.strerror}; make it a readable file") from error
    if stat.S_ISDIR(mode):
        raise ReplayError(f"{path} is a directory; name the file in it")
    if not stat.S_ISREG(mode):
        raise ReplayError(
            f"{path} is a pipe or a device, and a log is read more than once; write it to a file"
        )


def _open(path: Path) -> IO[bytes]:
    check_file(path)
    try:
        with path.open("rb") as file:
            magic = file.read(8)
    except OSError as error:
        raise ReplayError(f"{path}: {error.strerror}; make it readable") from error
    if not magic:
        raise ReplayError(f"{path} is empty; was the download or export cut off?")
    if magic.startswith(GZIP):
        return cast(IO[bytes], gzip.open(path, "rb"))
    return path.open("rb")


def _refuse_foreign(path: Path, start: bytes) -> None:
    for magic, what in FOREIGN.items():
        if start.startswith(magic):
            raise ReplayError(f"{path} is {what}")
    if start[257:262] == b"ustar":
        raise ReplayError(f"{path} is a tar archive; unpack it first")
    head = start[:4096]
    if head.count(0) * 10 > len(head) and not head.startswith(UTF_16):
        wide = head[1::2].count(0) * 2 > len(head[1::2]) or head[::2].count(0) * 2 > len(head[::2])
        what = "UTF-16 without its byte order mark; save it as UTF-8" if wide else "not text"
        raise ReplayError(f"{path} is {what}" + ("" if wide else "; give a file of lines"))


def _blocks(path: Path) -> Iterator[bytes]:
    with _open(path) as file:
        block = file.read(BLOCK)
        _refuse_foreign(path, block)
        if not block.startswith(UTF_16):
            while block:
                yield block
                block = file.read(BLOCK)
            return
        decoder = codecs.getincrementaldecoder("utf-16")()
        try:
            while block:
                yield decoder.decode(block).encode("utf-8", "surrogatepass")
                block = file.read(BLOCK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise ReplayError(
                f"{path} is damaged or not all UTF-16 ({error.reason}); save it as UTF-8"
            ) from error


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, line without its end); blank lines are left out.

    Raises:
        ReplayError: if the file is missing, empty, of another kind, truncated, or has a line of
            more than `LONGEST_LINE` bytes. A truncated gzip file raises after its readable part.
    """
    number = 1
    rest = b""
    try:
        for block in _blocks(path):
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            for line in lines:
                if number == 1:
                    line = line.removeprefix(BYTE_ORDER_MARK)
                line = line.rstrip(b"\r")
                if line and not line.isspace():
                    yield number, line
                number += 1
            if len(rest) > LONGEST_LINE:
                raise ReplayError(
                    f"{path} line {number} is longer than {LONGEST_LINE >> 20} MiB; "
                    "is this a click log?"
                )
    except EOFError as error:
        raise ReplayError(
            f"{path} is truncated after line {number}: the gzip stream ends early; "
            "download or copy it again"
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ReplayError(
            f"{path} is damaged after line {number} ({error}); download or copy it again"
        ) from error
    except OSError as error:
        raise ReplayError(f"{path} line {number}: {error.strerror or error}") from error
    if rest and not rest.isspace():
        yield number, (rest.removeprefix(BYTE_ORDER_MARK) if number == 1 else rest).rstrip(b"\r")
