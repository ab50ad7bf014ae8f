"""Which column is what: the names that shops and published logs give to the same things.

A name is compared without case and without anything but letters and digits, so that `userId`,
`user_id`, `USER-ID` and `User ID` are one name. The names of a role stand in ranks: a name of an
earlier rank is taken whatever else there is (`user_id` beside `customer_id`), while two columns of
one rank leave it open which is meant, and are refused. Titles and categories are only read along,
so there the order decides, record by record: the next one speaks where one is empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from replay.errors import ReplayError

USER = (
    "userid",
    "visitorid reviewerid customerid memberid accountid buyerid clientid personid playerid "
    "listenerid readerid viewerid shopperid profileid uid",
    "user visitor reviewer customer member buyer client",
    "sessionid session usersession visitid cookieid deviceid",
)
ITEM = (
    "itemid",
    "parentasin",
    "asin productid movieid articleid bookid trackid songid videoid newsid contentid goodsid "
    "offerid listingid gameid recipeid animeid courseid businessid aid",
    "item product movie article book track song video sku isbn ean gtin stockcode",
)
TIME = (
    "time",
    "timestamp ts eventtime eventtimestamp unixreviewtime unixtime epoch datetime createdat "
    "occurredat timestampms timems tdat",
    "date day eventdate orderdate reviewdate invoicedate reviewtime",
)
EVENT_TYPE = (
    "eventtype",
    "event eventname behavior behaviour behaviortype behaviourtype action actiontype interaction "
    "interactiontype feedbacktype",
    "type",
)
TITLE = "title name itemname productname producttitle itemtitle movietitle booktitle prodname"
CATEGORY = (
    "categories category categoryname categorycode categorypath maincategory maincat genres genre "
    "class department producttype producttypename productgroup subcategory categoryid catid"
)
EXTERNAL = "externalid asin parentasin sku isbn ean gtin"
MOST_NAMES = 20
LONGEST_NAME = 40


@dataclass(frozen=True)
class EventColumns:
    """Positions of what a log is read from; `event_type` is None where every event is a click."""

    user: int
    item: int
    time: int
    event_type: int | None

    @property
    def width(self) -> int:
        """The fewest columns that a row must have."""
        return max(self.user, self.item, self.time) + 1

    def note(self, names: Sequence[str], time_form: str) -> str:
        """In words: what is used as what, and what is not used."""
        used = [
            (self.user, "is the user"),
            (self.item, "the item"),
            (self.time, f"the time ({time_form})"),
        ]
        if self.event_type is not None:
            used.append((self.event_type, "the type of event"))
        return _note(names, used)


@dataclass(frozen=True)
class EntryColumns:
    """Positions of what a catalogue is read from; the first title and category that speak count."""

    item: int
    titles: tuple[int, ...]
    categories: tuple[int, ...]
    external: int | None

    def note(self, names: Sequence[str]) -> str:
        """In words: what is used as what, and what is not used."""
        used = [(self.item, "is the item")]
        used += [(at, "the title") for at in self.titles]
        used += [(at, "the category") for at in self.categories]
        if self.external is not None and self.external != self.item:
            used.append((self.external, "the shop's own id"))
        return _note(names, used)


def event_columns(names: Sequence[str]) -> EventColumns | None:
    """The columns of a log; None if the names are not those of one.

    Raises:
        ReplayError: if a column is missing, or two could be meant.
    """
    user, item, time = _find(names, USER), _find(names, ITEM), _find(names, TIME)
    if not user and not item:
        return None
    if not user and (not time or _ranked(names, f"{TITLE} {CATEGORY}")):
        return None  # a catalogue
    kinds = _find(names, EVENT_TYPE)
    return EventColumns(
        _the_one(names, user, "users", "user_id"),
        _the_one(names, item, "items", "item_id"),
        _the_one(names, time, "times", "time"),
        _the_one(names, kinds, "types of event", "event_type") if kinds else None,
    )


def entry_columns(names: Sequence[str]) -> EntryColumns | None:
    """The columns of a catalogue; None if the names are not those of one.

    Raises:
        ReplayError: if two columns could hold the items' ids.
    """
    item = _find(names, ITEM)
    described = _ranked(names, f"{TITLE} {CATEGORY}") and not _find(names, TIME)
    if not item or (_find(names, USER) and not described):
        return None  # a log, unless it tells what the items are and of no time
    external = _ranked(names, EXTERNAL)
    return EntryColumns(
        _the_one(names, item, "items", "item_id"),
        _ranked(names, TITLE),
        _ranked(names, CATEGORY),
        external[0] if external else None,
    )


def listed(names: Iterable[str]) -> str:
    """Names for a message, which stays short whatever a header holds."""
    known = [name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…" for name in names]
    more = len(known) - MOST_NAMES
    return ", ".join(known[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _spelt(name: str) -> str:
    return re.sub(r"[\W_]+", "", name[:LONGEST_NAME].casefold())


def _find(names: Sequence[str], ranks: Sequence[str]) -> list[int]:
    """Columns of the first rank that has any."""
    spelt = [_spelt(name) for name in names]
    for rank in ranks:
        known = rank.split()
        if found := [at for at, name in enumerate(spelt) if name in known]:
            return found
    return []


def _ranked(names: Sequence[str], ranks: str) -> tuple[int, ...]:
    """All columns with one of the names, in the order of these."""
    spelt = [_spelt(name) for name in names]
    return tuple(at for known in ranks.split() for at, name in enumerate(spelt) if name == known)


def _the_one(names: Sequence[str], found: Sequence[int], what: str, plain: str) -> int:
    if len(found) == 1:
        return found[0]
    if found:
        raise ReplayError(
            f"the columns {listed(names[at] for at in found)} could all be the {what}: rename the "
            f"right one to {plain}"
        )
    why = ": a replay needs to know when each event happened" if plain == "time" else ""
    raise ReplayError(
        f"no column of {what} among {listed(names)}{why}; name the right one {plain}, or add it"
    )


def _note(names: Sequence[str], used: Sequence[tuple[int, str]]) -> str:
    taken = {at for at, _ in used}
    note = ", ".join(f"{listed([names[at]])} {what}" for at, what in used)
    unused = [name for at, name in enumerate(names) if at not in taken and name]
    return f"{note}; not used: {listed(unused)}" if unused else note
