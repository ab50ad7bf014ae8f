"""Which paths every program of the pipeline can work with.

Nearly all: spaces, quotes, `%`, `#`, letters of any script, and as long as the system allows. What
is left cannot be said to one of them, and is refused before anything is written.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

BELOW_BYTES = 400
"""The longest path that a part makes below the data directory, with some to spare."""


class PathError(ValueError):
    """A path that one of the programs could not find again; the message says what to change."""


def require_text(path: Path) -> None:
    """Check that a path can be written down.

    Raises:
        PathError: if it cannot.
    """
    shown = ascii(str(path))
    if not str(path).isascii() and sys.getfilesystemencoding().lower() != "utf-8":
        raise PathError(
            f"{shown}: names of files are UTF-8 here, but {sys.getfilesystemencoding()} by the "
            "locale; set LC_ALL=C.UTF-8 or PYTHONUTF8=1, or use a name of ASCII characters"
        )
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise PathError(f"{shown}: not UTF-8; rename it, or choose another one") from error


def require_usable(directory: Path) -> None:
    """Check that every part can work in an absolute directory.

    Raises:
        PathError: if one cannot.
    """
    require_text(directory)
    text = str(directory)
    if any(c < " " or c == "\x7f" for c in text):
        raise PathError(f"{text!r}: has a control character; rename it, or choose another one")
    if "\\" in text:
        raise PathError(
            f"{directory}: has a backslash, which Flink takes for a slash; rename it, or choose "
            "another one"
        )
    longest = os.pathconf("/", "PC_PATH_MAX") - BELOW_BYTES
    if len(os.fsencode(directory)) > longest:
        raise PathError(
            f"{text[:100]}...: has {len(os.fsencode(directory)):,} bytes, over {longest:,}, which "
            "leaves no room for the files in it; choose a shorter one"
        )
