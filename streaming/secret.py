"""Passwords, tokens and keys: used, never shown.

A setting is secret by its name (`password`, `token`, `sasl.jaas.config`, ...), and a URI by the
password in it. What is shown or written has `MASK` in its place. Every secret that was read is
remembered, so that a text that is about to be logged, reported or printed can be cleaned of it,
whoever made the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

MASK = "**********"
SHORTEST = 4
"""Characters; a shorter secret is none, and to take it out of a text would garble the text."""

_SECRET = re.compile(
    r"(?!.*(file|path|location)$)(.*pass(word|wd|phrase|code)?$|.*(secret|jaas|credential)"
    r"|.*token$|(.*[._-])?(api|access|private)?[._-]?key$)",
    re.IGNORECASE,
)
# A scheme begins at a word's start, and is short: megabytes of letters are looked at once.
_IN_URI = re.compile(r"(?P<before>(?<!\w)\w[\w+.-]{0,60}://[^\s/:@]*:)(?P<password>[^\s/@]+)(?=@)")
_known: set[str] = set()


def is_secret(name: str) -> bool:
    """Whether a setting of this name holds a secret.

    >>> names = "password", "secrets_file", "sasl.jaas.config", "ssl.keystore.key", "ssl_keyfile"
    >>> [name for name in names if is_secret(name)]
    ['password', 'sasl.jaas.config', 'ssl.keystore.key']
    """
    return _SECRET.match(name) is not None


def masked(value: Any, name: str = "") -> Any:
    """The value, at any depth, with `MASK` for its secrets.

    >>> masked({"token": "abc", "uri": "http://me:pw@host", "k": 5})
    {'token': '**********', 'uri': 'http://me:**********@host', 'k': 5}
    """
    if isinstance(value, Mapping):
        return {key: masked(one, str(key)) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [masked(one, name) for one in value]
    if isinstance(value, SecretStr):
        return MASK if value else ""
    if isinstance(value, str):
        return MASK if value and is_secret(name) else _IN_URI.sub(rf"\g<before>{MASK}", value)
    return value


def secrets_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """What `masked` would take out: the same mapping with nothing but its secrets."""
    found: dict[str, Any] = {}
    for key, one in value.items():
        if isinstance(one, Mapping):
            if inner := secrets_of(one):
                found[key] = inner
            continue
        if isinstance(one, list | tuple) and masked(one, key) != list(one):
            found[key] = list(one)
        plain = one.get_secret_value() if isinstance(one, SecretStr) else one
        if isinstance(plain, str) and plain and masked(plain, key) != plain:
            found[key] = plain
    return found


def first_masked(value: Mapping[str, Any], where: str = "") -> str:
    """The first setting that holds `MASK` in place of a secret, as `a.b`; empty if none does."""
    for key, one in value.items():
        name = f"{where}.{key}" if where else str(key)
        plain = one.get_secret_value() if isinstance(one, SecretStr) else one
        if isinstance(plain, Mapping):
            if found := first_masked(plain, name):
                return found
        elif isinstance(plain, str) and MASK in plain:
            return name
    return ""


def remember(value: Any) -> None:
    """Have `cleaned` take a secret out of texts, also as JSON, Python, JAAS and URIs write it."""
    if isinstance(value, Mapping):
        for one in value.values():
            remember(one)
    elif isinstance(value, str) and len(value) >= SHORTEST and value != MASK:
        in_uri = _IN_URI.search(value)
        secret = in_uri["password"] if in_uri else value
        _known.update((secret, repr(secret)[1:-1], quote(secret, safe="")))
        for ascii_only in (True, False):
            once = json.dumps(secret, ensure_ascii=ascii_only)[1:-1]
            twice = json.dumps(once, ensure_ascii=ascii_only)[1:-1]
            _known.update((once, twice, once.replace("\\", "\\\\")))
        _known.difference_update([short for short in _known if len(short) < SHORTEST])


def cleaned_facts(value: Any) -> Any:
    """JSON-able facts with every text in them `cleaned`."""
    if isinstance(value, dict):
        return {key: cleaned_facts(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned_facts(one) for one in value]
    return cleaned(value) if isinstance(value, str) else value


def cleaned(text: str) -> str:
    """A text without any secret that was remembered, and without passwords in URIs."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _IN_URI.sub(rf"\g<before>{MASK}", text) if "@" in text else text
