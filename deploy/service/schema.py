"""Requests and answers of the retrieval service, as its OpenAPI page shows them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from deploy.http.shop_ids import Id
from deploy.http.times import TimeMs
from indexer.catalogue.filter import MOST_CONDITIONS
from indexer.search.query import MAX_K, MOST_NAMED
from indexer.search.similar_items import Source

MAX_HISTORY = 1000
"""Longest history in a request; the newest 50 are used, all are left out of the answer."""

MAX_BATCH = 64
"""Most queries of one batch."""

SHOPS_OWN = "What the shop calls it, text or number, as text; never empty."

_BY_USER: dict[str, Any] = {
    "summary": "a known user",
    "description": "As the shop calls it, text or number; so are items in a history.",
    "value": {"user_id": 42, "k": 10},
}
_BY_HISTORY: dict[str, Any] = {
    "summary": "a history",
    "description": "Item ids, oldest first; times in milliseconds since 1970 may be added.",
    "value": {"history": [101, 7, 2048], "k": 20, "codes": 8, "exclude_seen": True},
}
_NEW: dict[str, Any] = {"summary": "a new user", "value": {"history": [], "k": 5}}
_FILTERED: dict[str, Any] = {
    "summary": "among some items",
    "description": "Conditions over `category` and attributes, in Qdrant's form.",
    "value": {
        "history": [],
        "filter": {"must_not": [{"key": "category", "match": {"any": ["Books", "Games"]}}]},
        "exclude": [101],
    },
}
REQUEST_EXAMPLES = {
    "user": _BY_USER,
    "history": _BY_HISTORY,
    "new_user": _NEW,
    "filtered": _FILTERED,
}


_CONDITIONS = {
    "anyOf": [
        {"type": "object"},
        {"type": "array", "items": {"type": "object"}, "maxItems": MOST_CONDITIONS},
        {"type": "null"},
    ]
}
_MIN_SHOULD = {
    "anyOf": [
        {
            "type": "object",
            "properties": {"conditions": _CONDITIONS, "min_count": {"type": "integer"}},
        },
        {"type": "null"},
    ]
}
FilterJson = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "properties": {
                "must": _CONDITIONS,
                "should": _CONDITIONS,
                "must_not": _CONDITIONS,
                "min_should": _MIN_SHOULD,
            },
            "additionalProperties": False,
        }
    ),
]
"""A filter in Qdrant's form; `indexer.catalogue.filter` reads it."""


class Question(BaseModel):
    """For whom, how many, and when: what all that retrieves is asked."""

    model_config = ConfigDict(extra="forbid")

    user_id: Id | None = Field(None, description="A user whose clicks went through the pipeline.")
    history: list[Id] | None = Field(
        None, max_length=MAX_HISTORY, description="Item ids, oldest first; may be empty."
    )
    history_times: list[TimeMs] | None = Field(
        None,
        max_length=MAX_HISTORY,
        description="Milliseconds, as many as `history`; without them the clicks count as recent.",
    )
    k: int = Field(50, strict=True, ge=1, le=MAX_K, description="Number of items.")
    codes: int | None = Field(
        None, strict=True, ge=1, le=1_000_000, description="Number of codes to search."
    )
    exclude_seen: bool = Field(True, description="Leave out the items of the history.")
    filter: FilterJson | None = Field(
        None,
        description="What the items must meet, over `category` and their attributes, in Qdrant's "
        "form: `must`, `should` and `must_not` of conditions such as "
        '`{"key": "price", "range": {"lt": 20}}`.',
    )
    exclude: list[Id] = Field([], max_length=MOST_NAMED, description="Further items to leave out.")
    include_only: list[Id] | None = Field(
        None, max_length=MOST_NAMED, description="The only items that may answer."
    )
    now_ms: TimeMs | None = Field(
        None,
        description="Time of the query; by default the newest event time known, so that a "
        "replayed log is asked at its own time, or now, where that is not older than a day.",
    )

    @model_validator(mode="after")
    def _times_fit(self) -> Question:
        if self.history_times is not None:
            if self.history is None:
                raise ValueError("history_times belongs to history, not to user_id")
            if len(self.history_times) != len(self.history):
                raise ValueError(
                    f"history has {len(self.history)} items and history_times "
                    f"{len(self.history_times)} times"
                )
        return self


class RetrieveRequest(Question):
    """Whose items to retrieve, either by `user_id` or by `history`, and how many."""

    @model_validator(mode="after")
    def _one_history(self) -> RetrieveRequest:
        if (self.user_id is None) == (self.history is None):
            raise ValueError("give either user_id or history (an empty one for a new user)")
        return self


class SimilarRequest(Question):
    """The item that others are to be like, and, if known, who looks at it."""

    item_id: Id = Field(description="An item that is listed.")

    @model_validator(mode="after")
    def _one_history_at_most(self) -> SimilarRequest:
        if self.user_id is not None and self.history is not None:
            raise ValueError("give user_id or history, not both")
        return self


class RetrievedItem(BaseModel):
    """An item of the answer."""

    item_id: int
    title: str
    category: str
    external_id: str = Field(description=SHOPS_OWN)
    score: float = Field(
        description="s(user, item, code), never ascending; a drawn item has that of the last "
        "ranked one."
    )
    code: int = Field(description="First-level code that brought the item.")
    code_probability: float = Field(description="p(code | user).")
    propensity: float = Field(
        description="Probability with which the item came to its place, given those before it: 1 "
        "if it was ranked, less if it was drawn for exploration."
    )


class SearchedCode(BaseModel):
    """A code that was searched."""

    code: int
    probability: float = Field(description="p(code | user).")
    quota: int = Field(description="Places of the answer that its items filled.")


class RetrieveResponse(BaseModel):
    """Items best first, and the codes that were searched, most probable first."""

    version: int = Field(description="Snapshot that answered.")
    arm: str | None = Field(description="Arm of the split that answered; null without a split.")
    known_user: bool | None = Field(
        description="Whether the user's clicks are known; null where a history was given."
    )
    now_ms: int = Field(description="Time that the query was answered for.")
    items: list[RetrievedItem]
    searched: list[SearchedCode]


class SimilarItem(BaseModel):
    """An item like another one."""

    item_id: int
    title: str
    category: str
    external_id: str = Field(description=SHOPS_OWN)
    score: float = Field(description="Never ascending.")
    code: int = Field(description="Its first-level code.")
    sources: list[Source] = Field(
        description="What brought it: `neighbour`, the same users clicked both lately; `code`, it "
        "has the same first-level code; `nearby`, it has a code next to that."
    )


class SimilarResponse(BaseModel):
    """Items like one item, the most alike first."""

    version: int = Field(description="Snapshot that answered.")
    arm: str | None = Field(description="Arm of the split that answered; null without a split.")
    known_user: bool | None = Field(
        description="Whether the user's clicks are known; null where no user was given."
    )
    now_ms: int = Field(description="Time that the query was answered for.")
    code: int = Field(description="First-level code of the item that was asked about.")
    items: list[SimilarItem]


class PopularItem(BaseModel):
    """An item that many click."""

    item_id: int
    title: str
    category: str
    external_id: str = Field(description=SHOPS_OWN)


class PopularResponse(BaseModel):
    """The items with the most clicks, each click halved every seven days of event time."""

    items: list[PopularItem]


class BatchRequest(BaseModel):
    """Several queries, answered from one snapshot."""

    model_config = ConfigDict(extra="forbid")

    queries: list[RetrieveRequest] = Field(min_length=1, max_length=MAX_BATCH)


class BatchResponse(BaseModel):
    """As many answers as queries, in their order."""

    answers: list[RetrieveResponse]


class Click(BaseModel):
    """An item of the history."""

    item_id: int
    title: str
    category: str
    external_id: str = Field(description=SHOPS_OWN)
    code: int | None = Field(description="Its first-level code; null for an unknown item.")


class ExplainedCode(BaseModel):
    """A code that was searched, and what came of it."""

    code: int
    label: str = Field(description="What most of its clicked items have in common.")
    probability: float = Field(description="p(code | user).")
    searched: bool = Field(
        description="Its list was searched; else its items were scored for their own evidence."
    )
    quota: int = Field(description="Places of the answer that its items filled.")
    clicks: int = Field(description="Clicks of the history that lie in it.")
    explored: bool = Field(description="None of the history's clicks lie in it.")
    items_in_list: int
    items: list[RetrievedItem] = Field(description="Its items in the answer, best first.")


class Explanation(BaseModel):
    """An answer and where it comes from."""

    answer: RetrieveResponse
    history: list[Click] = Field(description="The newest 50 clicks, oldest first.")
    codes: list[ExplainedCode]


class Health(BaseModel):
    """Whether the service lives, can answer, and how far behind it is."""

    live: bool
    ready: bool = Field(description="A snapshot is loaded.")
    version: int | None
    challenger_version: int | None = Field(
        description="A newer version that is being compared with the served one."
    )
    decided_version: int = Field(description="Newest version that serves or was decided about.")
    pinned: bool = Field(description="A person chose the version; nothing is promoted.")
    digest: str | None = Field(description="SHA-256 of the snapshot's manifest.")
    codebook_generation: int | None
    items: int = Field(description="Items that can be retrieved.")
    appended_items: int = Field(description="Of them, those listed since the snapshot was built.")
    pointer_age_seconds: float | None = Field(description="Since the pointer was last moved.")
    trained_until_ms: int | None = Field(description="Newest event the snapshot learnt from.")
    latest_event_ms: int | None = Field(description="Newest event among the users' histories.")
    users: int = Field(description="Users with a history.")
    history_lag_records: int | None = Field(description="Sequences not taken in yet.")
    kafka_connected: bool
    kafka_problem: str = Field(description="Why the histories stand still, if so.")
    swaps: int
    last_error: str = Field(description="Why the newest snapshot is not served, if so.")


class Ready(BaseModel):
    """The service can answer."""

    version: int = Field(description="Snapshot that answers.")


class SnapshotVersion(BaseModel):
    """A published snapshot on disk."""

    version: int
    serving: bool
    mlflow_version: int | None = Field(description="Its number in the registry, once registered.")


class Problem(BaseModel):
    """Why a request was not answered."""

    detail: str
