"""Titles and categories as a person reads them: shops scrape them from their own pages.

Only the elements of HTML are tags: `sizes <M and >S` and `The <Brand New> soap` are text, where a
parser of HTML would drop words. Scripts and styles, with or without their tags, are no title.
"""

from __future__ import annotations

import html
import re

LONGEST = 10_000
"""Characters that are looked at; a title is found within them or not at all."""
_ELEMENTS = (
    "a abbr address article aside b big blockquote body br button caption center cite code col dd "
    "del div dl dt em figure font footer form h1 h2 h3 h4 h5 h6 head header hr html i iframe img "
    "input ins label li link main mark meta nav noscript ol option p pre q s script section select "
    "small span strike strong style sub sup svg table tbody td textarea tfoot th thead tr tt u ul "
    "video wbr"
).replace(" ", "|")
_INLINE = frozenset(
    "a abbr b big cite code del em font i ins mark q s small span strong sub sup u".split()  # noqa: SIM905
)
_HIDDEN = re.compile(r"<(script|style)\b[^<>]*>.*?(?:</\1\s*>|$)|<!--.*?(?:-->|$)", re.I | re.S)
_TAG = re.compile(rf"</?({_ELEMENTS})(?:\s[^<>]*)?/?>", re.I)
_CUT_TAG = re.compile(rf"<(?:{_ELEMENTS})\s+[\w-]+\s*=[^<>]*$", re.I)
_SCRIPT = re.compile(
    r"\bvar\s+[\w$]+\s*=|\bfunction\b\s*\w*\s*\([^()]*\)\s*\{|\bnew Date\(|\bgetTime\(\)"
    r"|\b(?:document|window)\.\w+\s*[.=(]|^\s*[.#@]?[\w-]+\s*\{[^{}]*:[^{}]*\}"
)
_IN_SCRIPTS = ("{", "(", "=", "document.", "window.")
"""One of these is in whatever `_SCRIPT` finds: most titles have none and need no search."""


def readable(text: str) -> str:
    """Text without tags, entities and scripts; empty where nothing else is in it.

    >>> readable('<span id="productTitle">Lip &amp; Cheek <b>Tint</b></span>')
    'Lip & Cheek Tint'
    """
    if len(text) > LONGEST:
        text = text[:LONGEST].rpartition("<")[0] or text[:LONGEST]  # a tag may have been cut
    for _ in range(3):  # what was escaped twice shows its tags only then
        before = text
        if "<" in text:
            text = _CUT_TAG.sub(" ", _TAG.sub(_gap, _HIDDEN.sub(" ", text)))
        if "&" in text:
            text = html.unescape(text)
        if text == before:
            break
    for mark in _IN_SCRIPTS:
        if mark in text:
            return "" if _SCRIPT.search(text) else text
    return text


def _gap(tag: re.Match[str]) -> str:
    return "" if tag[1].lower() in _INLINE else " "
