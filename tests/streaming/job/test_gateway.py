"""While a job is being submitted, the JVM that does it takes orders from nobody else."""

from __future__ import annotations

import socket
import subprocess
import sys

import psutil
import pytest

from deploy.local.java import JavaError, find_java

OPEN = """
import sys
from streaming.job.gateway import open_gateway
from pyflink.java_gateway import get_gateway
open_gateway()
print(get_gateway().jvm.java.lang.Math.abs(-7), get_gateway().gateway_parameters.port, flush=True)
sys.stdin.read()
"""
ORDER = b"c\nz:java.lang.Math\nabs\ni-9\ne\n"
"""Py4J's protocol: call `abs` of `java.lang.Math`."""


@pytest.fixture
def submitting():
    try:
        find_java()
    except JavaError as error:
        pytest.skip(str(error))
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    seven, port = process.stdout.readline().split()
    assert seven == "7"
    yield process, int(port)
    process.stdin.close()
    process.wait(20)


def said(port: int, order: bytes) -> bytes:
    """What the other side answers until it has nothing more to say."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(order)
        answer = b""
        try:
            while part := connection.recv(4096):
                answer += part
        except OSError:
            pass
    return answer


def test_nobody_without_the_token_is_obeyed(submitting):
    process, port = submitting
    page = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n\r\n" + ORDER
    for order in (ORDER, page, b"A\nwrong\ne\n" + ORDER):
        answer = said(port, order)
        assert b"9" not in answer, answer
    (jvm,) = psutil.Process(process.pid).children()
    listening = [c for c in jvm.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert [c.laddr.port for c in listening] == [port]
    assert listening[0].laddr.ip.removeprefix("::ffff:") == "127.0.0.1"
    ours = psutil.Process(process.pid).net_connections("tcp")
    assert not [c for c in ours if c.status == psutil.CONN_LISTEN]
