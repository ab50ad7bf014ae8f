"""The paths by which a shop says what was clicked and what it sells.

A body is one JSON object, or one JSON value a line (NDJSON), which is the same as their list.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

from deploy.http.shop_ids import Id
from deploy.ingest import records
from deploy.ingest.forgotten_users import ForgottenUsers, request
from deploy.ingest.item_changes import Behind, ItemChanges, Unlisted
from deploy.ingest.kafka_writer import KafkaAway, KafkaWriter, RoomTaken
from deploy.ingest.records import (
    EventsIn,
    EventsTaken,
    ItemPatch,
    ItemsIn,
    ItemsTaken,
    UserForgotten,
)
from streaming.bounds import LARGEST_ID, LONGEST_NAME, EventError
from streaming.ids import shop_id
from streaming.topics import Topics

NDJSON = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})
AWAY = (
    "Kafka does not answer: say the same again a little later; what has an event_id, an "
    "event_time or an Idempotency-Key is not taken twice"
)
REPLAYED = (
    "a log is being replayed whose time is {there}, and a click of {here} would make the rest of "
    "it late: wait until the replay is done (sparc status), or give the clicks the log's time"
)
NEAR_MS = 3_600_000
NO_NOTE = (
    "the request is in Kafka, but the service cannot take note of it, as its disk takes no more: "
    "free some space and say it again"
)
UNLISTED = "nobody listed this item, or it was withdrawn for good: POST /v1/items lists it"
BEHIND = "an item cannot be changed at this moment ({reason}); come again a little later"
FULL = "too much waits for Kafka already; come again a little later"


class LinesRoute(APIRoute):
    """Takes NDJSON for the list that the path's last word names."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, behind one that puts lines into a list."""
        handle = super().get_route_handler()
        field = self.path.rpartition("/")[2]

        async def with_lines(request: Request) -> Response:
            media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if media in NDJSON:
                request = _as_object(request, await request.body(), field)
            return await handle(request)

        return with_lines


def _as_object(request: Request, content: bytes, field: str) -> Request:
    lines = []
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise HTTPException(422, f"line {number} is not JSON: {error}") from error
        lines.append(line)
    body = b'{"%s":[%s]}' % (field.encode(), b",".join(lines))
    headers = [(n, v) for n, v in request.scope["headers"] if n != b"content-type"]
    scope = {**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(scope, receive)


def router(
    writer: KafkaWriter,
    changes: ItemChanges,
    topics: Topics,
    log_time_ms: Callable[[], int | None],
    problems: Callable[..., Any],
    forgotten: ForgottenUsers,
) -> APIRouter:
    """The routes over one writer.

    Args:
        writer: brings records into Kafka.
        changes: of items.
        topics: where they go.
        log_time_ms: the time of a log while it is replayed, else None.
        problems: describes answers of these statuses for the OpenAPI page.
        forgotten: takes note of who is to be forgotten.
    """
    routes = APIRouter(route_class=LinesRoute)
    refusals = problems(401, 403, 413, 422, 429) | {
        503: {"description": "Kafka does not answer: say the same again."}
    }
    late = {409: {"description": "A log of another time is being replayed."}}
    lines = {"requestBody": {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}}

    async def taken(writing: Awaitable[None]) -> None:
        try:
            await writing
        except EventError as error:
            raise HTTPException(422, str(error)) from error
        except Unlisted:
            raise HTTPException(404, UNLISTED) from None
        except Behind as error:
            reason = BEHIND.format(reason=error)
            raise HTTPException(503, reason, headers={"Retry-After": "2"}) from None
        except RoomTaken:
            raise HTTPException(429, FULL, headers={"Retry-After": "1"}) from None
        except KafkaAway:
            raise HTTPException(503, AWAY, headers={"Retry-After": "2"}) from None

    @routes.post(
        "/v1/events",
        responses=refusals | late,
        summary="Say what was clicked",
        openapi_extra=lines,
    )
    async def events(
        body: EventsIn,
        idempotency_key: Annotated[str, Header(max_length=LONGEST_NAME)] = "",
    ) -> EventsTaken:
        """All clicks are in Kafka when this answers, or none is.

        The same `event_id` again makes no second click. Without one it follows from user, item,
        second and type; without a time, too, from the header `Idempotency-Key` and its place.
        """
        try:
            clicks = records.clicks(body.events, _now_ms(), idempotency_key)
            changes.require_texts(
                [
                    (f"events.{at}.", click.item_id, click.external_item_id)
                    for at, click in enumerate(clicks)
                ]
            )
        except EventError as error:
            raise HTTPException(422, str(error)) from error
        replayed_ms = log_time_ms()
        newest_ms = max(click.event_time for click in clicks)
        if replayed_ms is not None and newest_ms > replayed_ms + NEAR_MS:
            there, here = map(_day, (replayed_ms, newest_ms))
            raise HTTPException(409, REPLAYED.format(there=there, here=here))
        await taken(writer.write(records.of_clicks(clicks, topics)))
        return EventsTaken(accepted=len(clicks), event_ids=[click.event_id for click in clicks])

    @routes.post(
        "/v1/items",
        responses=refusals,
        summary="List items, or list them anew",
        openapi_extra=lines,
    )
    async def items(body: ItemsIn) -> ItemsTaken:
        """All items are in Kafka when this answers, or none is; they can be found seconds later."""
        now_ms = _now_ms()
        await taken(changes.list([records.item(one, now_ms) for one in body.items]))
        return ItemsTaken(accepted=len(body.items))

    @routes.patch(
        "/v1/items/{item_id:path}",
        responses=refusals | {404: {"description": "Nobody listed the item."}},
        summary="Change what is said of an item",
    )
    async def change(request: Request, item_id: Id, body: ItemPatch) -> ItemsTaken:
        """The fields that are named change, and the others stay; it is seen within seconds."""
        await taken(changes.change(_an_item(item_id), body, _text(request)))
        return ItemsTaken(accepted=1)

    @routes.delete("/v1/items/{item_id:path}", responses=refusals, summary="Withdraw an item")
    async def withdraw(request: Request, item_id: Id) -> ItemsTaken:
        """It is in no answer within seconds, until it is listed again; its clicks stay."""
        await taken(changes.withdraw(_an_item(item_id), _text(request)))
        return ItemsTaken(accepted=1)

    @routes.delete("/v1/users/{user_id:path}", responses=refusals, summary="Forget a user")
    async def forget(user_id: Id) -> UserForgotten:
        """From now on no answer uses what the user did; within seconds no history holds it.

        How long it takes until nothing is left anywhere is told in docs/PRIVACY.md. A user who is
        not known is forgotten as well; who comes back is new.
        """
        asked = request(user_id, uuid.uuid4().hex)
        await taken(writer.write(records.of_clicks([asked], topics)))
        try:
            await run_in_threadpool(forgotten.note, asked)
        except OSError:  # Kafka has it, and the job will carry it out; but it cannot be promised
            raise HTTPException(503, NO_NOTE, headers={"Retry-After": "10"}) from None
        return UserForgotten(accepted=1, event_id=asked.event_id)

    return routes


def _an_item(number: int) -> int:
    if not 0 <= number <= LARGEST_ID:
        raise HTTPException(422, "item_id: a text, or a number from 0 to 2^63 - 1")
    return number


def _text(request: Request) -> str:
    """The text by which the path names an item; empty for a number."""
    return shop_id(request.path_params["item_id"])[1]


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).date().isoformat()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
