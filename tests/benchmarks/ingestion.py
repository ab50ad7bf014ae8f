"""Clicks over HTTP into a pipeline that runs: at a rate, and as fast as they are taken.

    ./deploy/start_pipeline.sh &
    python -m tests.benchmarks.ingestion --service http://127.0.0.1:29098 --out ingestion.json

Requests leave at their times whether or not those before are answered, and a latency counts from
the time when its request was due. Then `--flood` connections send batches of 1,000 one after the
other for as long, and what the service's process takes is seen before and after. Users and items
have names of their own, so that the clicks can be told from those of the log.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil

from tests.benchmarks.reports import begun, write

CONNECTIONS = 32
USERS = 5_000


class Client:
    """One connection that asks one thing after the other."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> int:
        """The status of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        return int(head.split(b" ", 2)[1])


def body(number: int, size: int) -> bytes:
    """So many clicks that no other request has."""
    clicks = [
        {"user_id": f"bench-{(number + n) % USERS}", "item_id": f"bench-{number % 997}-{n % 89}"}
        for n in range(size)
    ]
    return json.dumps({"events": clicks}).encode()


async def steady(host: str, port: int, size: int, rate: float, seconds: float) -> dict[str, Any]:
    """Requests of `size` clicks, `rate` a second."""
    idle: asyncio.Queue[Client] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        idle.put_nowait(Client(host, port))
    statuses: Counter[int] = Counter()
    waits: list[float] = []
    began = time.perf_counter() + 0.2

    async def ask(number: int) -> None:
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        client = await idle.get()
        statuses[await client.post("/v1/events", body(number, size))] += 1
        waits.append(time.perf_counter() - due)
        idle.put_nowait(client)

    await asyncio.gather(*(ask(n) for n in range(int(rate * seconds))))
    p50, p95, p99 = (round(1000 * float(q), 1) for q in np.quantile(waits, [0.5, 0.95, 0.99]))
    took = time.perf_counter() - began
    return {
        "clicks_of_a_request": size,
        "requests_a_second": rate,
        "clicks_a_second": round(size * len(waits) / took),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "statuses": dict(statuses),
    }


async def flood(host: str, port: int, connections: int, seconds: float) -> dict[str, Any]:
    """Batches of 1,000, each connection one after the other."""
    statuses: Counter[int] = Counter()
    until = time.perf_counter() + seconds

    async def ask(number: int) -> None:
        client = Client(host, port)
        while time.perf_counter() < until:
            status = await client.post("/v1/events", body(number, 1000))
            statuses[status] += 1
            number += connections
            if status != 200:
                await asyncio.sleep(0.05)

    await asyncio.gather(*(ask(n) for n in range(connections)))
    taken = round(1000 * statuses[200] / seconds)
    return {"connections": connections, "clicks_a_second": taken, "statuses": dict(statuses)}


def main() -> None:
    """Measure, print, and keep the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--service", required=True)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each part")
    parser.add_argument("--flood", type=int, default=64, help="connections")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    url = urlsplit(options.service)
    host, port = url.hostname or "127.0.0.1", url.port or 80
    (pid,) = {
        one.pid
        for one in psutil.net_connections("tcp")
        if one.laddr and one.laddr.port == port and one.status == psutil.CONN_LISTEN and one.pid
    }
    service = psutil.Process(pid)
    httpx.get(f"{options.service}/ready").raise_for_status()

    def resident_mib() -> int:
        return round(service.memory_info().rss / 2**20)

    result = begun("ingestion", options)
    result["batches"] = asyncio.run(steady(host, port, 100, 50, options.seconds))
    result["single"] = asyncio.run(steady(host, port, 1, 500, options.seconds))
    before = resident_mib()
    result["flood"] = asyncio.run(flood(host, port, options.flood, options.seconds))
    result["flood"] |= {"service_mib_before": before, "service_mib_after": resident_mib()}
    write(result, options)


if __name__ == "__main__":
    main()
