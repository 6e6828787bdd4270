"""Boards with an RPC server that is not ours, here TVM's own: seen, named, and refused."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest
from device_boards import free_port, ready_tracker, wait_for_boards
from tvm.rpc.base import TrackerCode

from mnv2_tvm.devices.rpc.listing import list_boards
from mnv2_tvm.devices.rpc.session import Address, Session
from mnv2_tvm.devices.rpc.tracker import Tracker, ask, connect
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.target import Target


@pytest.fixture
def stock(tracker: Tracker, here: Target) -> Iterator[Address]:
    """`python -m tvm.exec.rpc_server`, as TVM's documents start it."""
    port = free_port()
    command = [sys.executable, "-m", "tvm.exec.rpc_server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--port-end", str(port + 1)]
    command += ["--tracker", tracker.address, "--key", here.name]
    address = Address((tracker.host, tracker.port), here.name)
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            wait_for_boards(address.tracker, address.key)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # TVM leaves its child


def test_it_is_refused_and_listed(stock: Address) -> None:
    with pytest.raises(DeviceError, match=rf"kit --target {stock.key}.*--on") as refused:
        Session(stock)
    assert refused.value.kind is Kind.REFUSED
    wait_for_boards(stock.tracker, stock.key)
    (board,) = list_boards(stock.tracker)
    assert (board.key, board.state) == (stock.key, "no answer")
    assert board.info["name"].startswith("refused: ")


def test_list_reads_a_port_that_is_text() -> None:
    """As TVM's C++ server and its Android app send it."""
    with ready_tracker() as own:
        address = own.host, own.port
        with closing(connect(address)) as connection:
            port = free_port()
            info = {"key": "server:phone", "addr": [None, str(port)]}
            ask(connection, TrackerCode.UPDATE_INFO, info)
            ask(connection, TrackerCode.PUT, "phone", (port, "phone:0.5"), None)
            (board,) = list_boards(address)
            assert (board.port, board.state) == (port, "no answer")
