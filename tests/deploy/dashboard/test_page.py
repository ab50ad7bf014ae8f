"""The page in headless Chromium, on a real service."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from deploy.monitoring.part_failures import SUPERVISION, Failure, as_status
from deploy.monitoring.part_status import TYPES, reporter
from deploy.release.decisions import Decision, decide
from deploy.release.split import Arm, Split, set_split
from replay.staging import stage
from streaming.events import UserSequence
from tests.deploy.service.test_service_limits import Serving
from tests.deploy.snapshot_maker import START_MS, Shelf

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 60_000

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on the PATH (apt-get install chromium)"
)


def report_all(shelf: Shelf) -> None:
    facts: dict[str, dict[str, Any]] = {
        "replay": {"clicks_produced": 120, "bad_lines": 0, "done": True},
        "stream": {"job_state": "RUNNING", "checkpoints": 3, "lag": 0},
        "train": {
            "trained_events": 48,
            "lag": 72,
            "event_time": START_MS + 10**6,
            "recall_at_50": 0.5,
            "prequential": {"window_recall_at_50": 0.5, "recall_at_50": 0.5},
            "state": "training",
        },
        "index": {"indexed_items": 60, "codes_in_use": 8, "items_lag": 0},
        "register": {"registered_versions": 2, "pending": 0},
        "serve": {"users": 20, "history_lag_records": 0},
    }
    for part, body in facts.items():
        reporter(shelf.data_dir, part)(TYPES[part](**body))


@pytest.fixture
def address(shelf: Shelf, free_ports) -> Iterator[str]:
    serving = Serving(shelf)
    report_all(shelf)
    evidence = {"queries": 500, "difference": -0.02, "low": -0.03, "high": -0.01}
    decide(shelf.data_dir, Decision(1, "first", "judge", "the first version served"))
    decide(shelf.data_dir, Decision(2, "kept", "judge", "<b>worse</b>", evidence=evidence))
    serving.dashboard.flow.sample()
    with served(serving, free_ports) as running:
        yield running


@contextmanager
def served(serving: Serving, free_ports) -> Iterator[str]:
    (port,) = free_ports(1)
    server = uvicorn.Server(
        uvicorn.Config(serving.app, host="127.0.0.1", port=port, log_level="warning")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        serving.close()


class Seen:
    """A page, with everything that went wrong on it."""

    def __init__(self, browser: Any, address: str, width: int) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(PATIENCE_MS)
        self.troubles: list[str] = []
        self.hosts: set[str] = set()
        self.page.on(
            "console",
            lambda m: self.troubles.append(m.text) if m.type in ("error", "warning") else None,
        )
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", lambda r: self.hosts.add(r.url.split("/")[2]))
        self.page.goto(f"{address}/", timeout=PATIENCE_MS)
        self.page.wait_for_selector("#user-answer li")
        self.page.wait_for_selector("#codebook-items li")
        self.page.wait_for_selector("#compare-result:not([hidden])")


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        one = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE_MS)
        yield one
        one.close()


def test_the_users_of_a_log_with_text_ids_are_known_to_the_page(
    browser: Any, shelf: Shelf, free_ports, tmp_path
) -> None:
    # Their numbers lie beyond 2**53, where JavaScript rounds.
    users = [f"A{1000 + k}HTATAQ9V7Y{k:X}" for k in range(12)]
    rows = [f"{users[k % 12]},{1 + k % 40},5.0,{1400000000 + 60 * k}" for k in range(36)]
    path = tmp_path / "ratings.csv"
    path.write_text("UserId,ProductId,Rating,Timestamp\n" + "\n".join(rows), encoding="utf-8")
    (batch,) = stage(path, None, tmp_path / "staged", 1_500_000_000_000).read_events()
    past: dict[int, list[tuple[int, int]]] = {}
    sequences = []
    for event_id, user, item, at, _ in zip(*batch[1:], strict=True):
        before = past.setdefault(user, [])
        items, times = [i for i, _ in before], [t for _, t in before]
        sequences.append(UserSequence(event_id, user, at, len(before) + 1, items, times, item))
        before.append((item, at))
    assert min(past) > 2**53
    with served(Serving(shelf, sequences=sequences), free_ports) as running:
        seen = Seen(browser, running, 1280)
        page = seen.page
        known = page.evaluate(
            """async () => {
                const { users } = await (await fetch("/v1/users?limit=40")).json();
                const asked = users.map(async (u) =>
                    (await fetch(`/v1/users/${encodeURIComponent(u.user_id)}/interests`)).json());
                return (await Promise.all(asked)).map((found) => found.known);
            }"""
        )
        assert known == [True] * 12
        for chip in page.locator("#user-recent button").all():
            chip.click()
            page.locator("#user-words", has_text="3 clicks.").wait_for()
        for user in users:  # as the shop calls them
            page.locator("#user-id").fill(user)
            page.keyboard.press("Enter")
            page.locator("#user-words", has_text="3 clicks.").wait_for()
        page.locator("#user-id").fill("nobody")
        page.keyboard.press("Enter")
        page.locator("#user-words", has_text="unknown").wait_for()
        assert seen.troubles == []
        assert "B0000000" in page.locator("#codebook-items").inner_text()  # the shop's own ids


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_loads_with_data_and_without_a_word_of_trouble(
    browser: Any, address: str, width: int
) -> None:
    seen = Seen(browser, address, width)
    page = seen.page
    assert page.locator(".part").count() == 6
    assert page.locator(".part .dot.live").count() == 5
    assert page.locator("#badge-version").inner_text() == "version 2"
    assert page.locator("#tile-recall").inner_text() == "0.500"
    log = page.locator("#timeline-list").inner_text()
    assert "not promoted" in log
    assert "<b>worse</b>" in log  # text of others is text, never markup
    for chart in ("quality-chart", "timeline-chart", "codebook-chart", "user-chart"):
        size = page.locator(f"#{chart} canvas").first.bounding_box()
        assert size["width"] > 200
        assert size["height"] > 100
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    small = page.evaluate(
        "[...document.querySelectorAll('p,li,td,dd,dt,a,button,label')].filter((e) => "
        "e.offsetParent && e.innerText.trim() && parseFloat(getComputedStyle(e).fontSize) < 12)"
        ".map((e) => e.innerText)"
    )
    assert small == []
    assert seen.hosts == {address.removeprefix("http://")}
    assert seen.troubles == []


def test_the_split_that_runs_is_on_the_page(browser: Any, shelf: Shelf, free_ports) -> None:
    serving = Serving(shelf)
    set_split(shelf.data_dir, Split("sizes", (Arm("wide", 0.5, search={"codes": 8}),)))
    serving.service.arms.poll()
    with served(serving, free_ports) as address:
        seen = Seen(browser, address, 390)
        seen.page.wait_for_selector("#split:not([hidden])")
        assert seen.page.locator("#split-title").inner_text() == "Split sizes"
        said = seen.page.locator("#split-arms").inner_text()
        assert "wide" in said and "codes 8" in said and "50 %" in said
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert seen.troubles == []


def test_the_page_says_which_part_is_down_and_why(browser: Any, address: str, shelf: Shelf) -> None:
    why = "<b>no</b> jars"
    down = [Failure("train", "failed", why, "logs/train.log", 0.0, 1, 30.0)]
    down.append(Failure("kafka", "tried again", "no port", "logs/kafka.log", 0.0))
    reporter(shelf.data_dir, SUPERVISION)(as_status(down))
    page = Seen(browser, address, 1280).page
    page.locator(".part[data-part=train] .dot.failed").wait_for()
    assert page.locator(".part .dot.live").count() == 4
    assert page.locator("#badge-live").inner_text() == "Trainer failed"
    said = page.locator("#notice").inner_text()
    assert f"train failed: {why} (log: logs/train.log)" in said
    assert "kafka failed: no port" in said


def test_everything_can_be_done_with_the_keyboard(browser: Any, address: str) -> None:
    seen = Seen(browser, address, 1280)
    page = seen.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"codebook-choice", "codebook-items", "user-id", "compare-a", "BUTTON"} <= reached
    before = page.locator("#codebook-facts").inner_text()
    page.locator("#codebook-choice").focus()
    page.keyboard.press("ArrowDown")
    page.locator("#codebook-choice").evaluate("e => e.dispatchEvent(new Event('change'))")
    page.locator("#codebook-items li").first.wait_for()
    assert page.locator("#codebook-facts").inner_text() != "" != before
    page.locator("#user-id").fill("-7")
    page.keyboard.press("Enter")
    page.locator("#user-words", has_text="unknown").wait_for()
    assert seen.troubles == []


def test_the_page_asks_for_the_token_and_goes_on_with_it(
    browser: Any, shelf: Shelf, free_ports
) -> None:
    serving = Serving(shelf, "a secret")
    (port,) = free_ports(1)
    server = uvicorn.Server(
        uvicorn.Config(serving.app, host="127.0.0.1", port=port, log_level="warning")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        while not server.started:
            thread.join(0.05)
        page.goto(f"http://127.0.0.1:{port}/dashboard/")
        page.locator("#token-dialog[open]").wait_for()
        page.locator("#token-input").fill("a secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#codebook-items li")
        assert page.locator("#badge-version").inner_text() == "version 2"
    finally:
        server.should_exit = True
        thread.join(20)
        serving.close()


def test_the_page_of_the_interface_works_without_another_host(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    hosts: set[str] = set()
    page.on("request", lambda r: hosts.add(r.url.split("/")[2]))
    page.goto(f"{address}/docs")
    page.locator(".opblock").first.wait_for()
    assert hosts <= {address.removeprefix("http://"), ""}
