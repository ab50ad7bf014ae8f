"""Queries that come at about the same time: answered together, each as it would be alone."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.service import process
from deploy.service.config import AnswerLogConfig, ServiceConfig, ServiceError
from deploy.service.search_device import search_device
from deploy.service.together import MOST, Together
from deploy.service.work_queue import QueueFull, TooSlow, WorkQueue
from indexer.lists.device_rows import DeviceRows
from indexer.search.config import SearchConfig
from tests.deploy.service.test_service import worker_on
from tests.deploy.service.test_workers import until
from tests.deploy.snapshot_maker import ITEMS, Shelf


def doubled(numbers: list[int]) -> list[int]:
    if 13 in numbers:
        raise ValueError("13")
    return [2 * number for number in numbers]


def test_all_are_answered_by_few_calls_and_an_error_stays_with_its_request() -> None:
    queue = WorkQueue("test", threads=2, room=500, timeout_seconds=10.0)
    sizes: list[int] = []
    together = Together(queue, lambda some: sizes.append(len(some)) or doubled(some), 0.01)

    async def crowd() -> list[Any]:
        asked = (together.ask(number) for number in range(300))
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(crowd())
    assert [x for n, x in enumerate(found) if n != 13] == [2 * n for n in range(300) if n != 13]
    assert isinstance(found[13], ValueError)
    assert max(sizes) <= MOST and together.answered == 299 and together.calls <= 12
    assert queue.waiting == 0
    queue.close()


def test_who_comes_while_a_call_is_under_way_joins_those_who_wait() -> None:
    queue = WorkQueue("test", threads=1, room=500, timeout_seconds=10.0)
    gate, sizes = threading.Event(), list[int]()

    def work(some: list[int]) -> list[int]:
        sizes.append(len(some))
        gate.wait(10)
        return some

    together = Together(queue, work, 0.001)

    async def crowd() -> None:
        asked = []
        for number in range(20):
            asked.append(asyncio.create_task(together.ask(number)))
            await asyncio.sleep(0.005)
        gate.set()
        assert await asyncio.gather(*asked) == list(range(20))

    asyncio.run(crowd())
    queue.close()
    assert len(sizes) == 2 and sum(sizes) == 20


def test_room_and_patience_hold_for_each_of_them() -> None:
    queue = WorkQueue("test", threads=1, room=2, timeout_seconds=0.2)
    gate, asked = threading.Event(), list[int]()

    def work(some: list[int]) -> list[int]:
        asked.extend(some)
        gate.wait(10)
        return some

    together = Together(queue, work, 0.0)

    async def crowd() -> None:
        first = asyncio.create_task(together.ask(1))
        await asyncio.sleep(0.1)
        later = [asyncio.create_task(together.ask(n)) for n in (2, 3)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await together.ask(4)
        for one in (first, *later):
            with pytest.raises(TooSlow):
                await one
        assert queue.waiting == 1  # the one that is under way
        gate.set()

    asyncio.run(crowd())
    queue.close()
    assert (asked, queue.waiting, queue.refused, queue.timed_out) == ([1], 0, 1, 3)


@pytest.mark.parametrize("on_device", [False, True])
def test_many_at_once_over_http_are_answered_as_one_by_one(
    shelf: Shelf, free_ports: Any, monkeypatch: pytest.MonkeyPatch, on_device: bool
) -> None:
    if on_device:  # the CPU stands for it
        rows = DeviceRows("cpu", 1 << 26)
        monkeypatch.setattr(process, "search_device", lambda *_: rows)
    shelf.publish(2)
    (port,) = free_ports(1)
    # where the device is one, that alone has them wait
    settings = {} if on_device else {"batch_wait_ms": 5.0}
    worker = worker_on(shelf.data_dir, port, timeout_seconds=30.0, queue=200, **settings)
    stop = threading.Event()
    thread = threading.Thread(target=process.run, args=(worker, stop, lambda _: None))
    thread.start()
    address = f"http://127.0.0.1:{port}"
    queries: list[dict[str, Any]] = [
        {"history": [1 + n % ITEMS, 1 + 7 * n % ITEMS], "k": 5 + n % 3} for n in range(120)
    ]
    queries[17] = {"history": [1], "k": 0}  # makes no sense, which the schema sees
    queries[31]["filter"] = {"must": [{"key": "color", "match": {"value": "red"}}]}
    try:
        until(lambda: answers(address))

        async def crowd() -> list[httpx.Response]:
            limits = httpx.Limits(max_connections=60)
            async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:
                asked = (client.post(f"{address}/v1/retrieve", json=one) for one in queries)
                return await asyncio.gather(*asked)

        many = asyncio.run(crowd())
        refused = {n: r.json()["detail"] for n, r in enumerate(many) if r.status_code != 200}
        assert sorted(refused) == [17, 31] and "color" in refused[31]
        assert {many[n].status_code for n in refused} == {422}
        with httpx.Client(timeout=30, trust_env=False) as client:
            for query, answer in zip(queries[::7], many[::7], strict=True):
                alone = client.post(f"{address}/v1/retrieve", json=query).json()
                assert items(alone) == items(answer.json())
            said = client.get(f"{address}/metrics").text
    finally:
        stop.set()
        thread.join(30)
    figures = dict(line.split(" ") for line in said.splitlines() if not line.startswith("#"))
    counted = [v for n, v in figures.items() if n.startswith("sparc_service_queries_total{")]
    assert sum(map(float, counted)) == 118 + len(queries[::7])  # each once
    assert float(figures["sparc_service_batched_queries_total"]) == 118 + len(queries[::7])
    calls = float(figures["sparc_service_batches_total"]) - len(queries[::7])
    assert calls < 80
    assert (float(figures.get("sparc_service_device_bytes", 0)) > 0) == on_device


def answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/ready", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def items(answer: dict[str, Any]) -> list[int]:
    return [item["item_id"] for item in answer["items"]]


def test_without_a_gpu_or_with_several_workers_it_is_said_what_to_do(tmp_path: Path) -> None:
    assert search_device(SearchConfig(device="cpu"), 1) is None
    assert search_device(SearchConfig(), 2) is None
    with pytest.raises(ServiceError, match=r"\[service\] workers is 2.*use 1, which"):
        search_device(SearchConfig(device="cuda"), 2)
    with pytest.raises(ServiceError, match="quota is equal"):
        search_device(SearchConfig(device="cuda", quota="equal"), 1)
    if (found := search_device(SearchConfig(), 1)) is not None:
        assert found.device == "cuda"
        return
    worker = replace(worker_on(tmp_path), search=SearchConfig(device="cuda"))
    with pytest.raises(ServiceError, match="torch finds no GPU: use auto or cpu"):
        process.run(worker, threading.Event(), lambda _: None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threads", 0),
        ("queue", -1),
        ("body_limit_bytes", 0),
        ("poll_seconds", 0.0),
        ("timeout_seconds", -1.0),
        ("timeout_seconds", float("nan")),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_its_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"service\.{name} is {value}: use"):
        ServiceConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("rows", 0), ("keep_files", 0), ("seconds", 0.0)])
def test_so_is_one_of_the_log(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"service\.answers\.{name} is {value}: use"):
        AnswerLogConfig(**{name: value})  # type: ignore[arg-type]


def test_a_wait_is_bounded() -> None:
    assert ServiceConfig(batch_wait_ms=0).batch_wait_ms == 0
    for wait in (-1.0, 2000.0):
        with pytest.raises(ValueError, match="service.batch_wait_ms"):
            ServiceConfig(batch_wait_ms=wait)
    with pytest.raises(ValueError, match="given up after timeout_seconds = 0.5: wait for less"):
        ServiceConfig(batch_wait_ms=500.0, timeout_seconds=0.5)
