"""Pages of others reach neither the service nor MLflow through the browser of who looks at them."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse

from deploy.http.door import Door
from tests.deploy.service.test_service_limits import Serving
from tests.deploy.snapshot_maker import Shelf

HERE = "http://127.0.0.1:29098"


def door(*hosts: str) -> TestClient:
    return TestClient(Door(PlainTextResponse("in"), hosts), HERE)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:29098", "localhost", "LOCALHOST:1", "[::1]:29098", "10.0.0.7", "localhost."]
)
def test_addresses_and_localhost_are_always_ours(host: str) -> None:
    assert door().get("/", headers={"Host": host}).text == "in"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:29098",
        "10.evil.example",
        "192.168.evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1@evil.example",
        "evil.example#localhost",
        "",
    ],
)
def test_a_name_that_is_made_to_lead_here_is_refused(host: str) -> None:
    refused = door("shop.example").get("/", headers={"Host": host})
    assert refused.status_code == 421
    assert "[service] hosts" in refused.json()["detail"]


def test_configured_names_are_ours_on_any_port() -> None:
    http = door("shop.example", "Serve")
    for host in ("shop.example", "shop.example:443", "SHOP.example", "serve:8000"):
        assert http.get("/", headers={"Host": host}).text == "in"
    assert door("*").get("/", headers={"Host": "evil.example"}).text == "in"


def test_several_hosts_are_none() -> None:
    refused = door().get("/", headers=[("Host", "127.0.0.1"), ("Host", "evil.example")])
    assert refused.status_code == 400


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        (HERE, 200),
        ("https://shop.example", 200),
        ("https://evil.example", 403),
        ("http://127.0.0.1:8080", 403),  # another user's server on this machine
        ("http://localhost:3000", 403),
        ("null", 403),
    ],
)
def test_what_changes_something_is_not_taken_from_pages_of_other_origins(
    origin: str | None, status: int
) -> None:
    headers = {} if origin is None else {"Origin": origin}
    http = door("127.0.0.1", "shop.example")
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert http.request(method, "/", headers=headers).status_code == status
    assert http.get("/", headers=headers).status_code == 200


def test_the_door_stands_before_the_token_and_before_every_path(shelf: Shelf) -> None:
    serving = Serving(shelf, "a secret")
    evil = {"Host": "evil.example"}
    paths = ("/", "/health", "/metrics", "/docs", "/dashboard/", "/v1/flow", "/openapi.json", "/x")
    for path in paths:
        for more in ({}, {"Authorization": "Bearer a secret"}):
            assert serving.http.get(path, headers=evil | more).status_code == 421, path
    asked = serving.http.post("/v1/retrieve", json={"history": []}, headers=evil)
    assert asked.status_code == 421
    serving.close()


def test_nobody_may_embed_an_answer(shelf: Shelf) -> None:
    serving = Serving(shelf)
    headers = serving.http.get("/v1/flow").headers
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers
    serving.close()


@pytest.mark.parametrize(
    "body", [b"\xff\xfe{", b'{"history": [' + b"[" * 60_000, b'{"user_id": "\xe9"}', b"nonsense"]
)
def test_a_body_that_cannot_be_read_is_answered_as_the_schema_says(
    shelf: Shelf, body: bytes
) -> None:
    serving = Serving(shelf)
    for path in ("/v1/retrieve", "/v1/retrieve/batch", "/v1/explain"):
        answer = serving.http.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, answer.text
        assert "JSON" in answer.json()["detail"]
    serving.close()
