"""Boards as processes of this machine: they end with their parent, and start again if they die."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from device_boards import (
    Address,
    free_port,
    processes_with,
    ready_tracker,
    session,
    wait_for_boards,
    wait_until,
)

from mnv2_tvm.devices.board.connection import connect_patiently
from mnv2_tvm.devices.emulate.board import LocalBoards
from mnv2_tvm.devices.rpc.listing import summary
from mnv2_tvm.errors import UserError
from mnv2_tvm.target import Target

RASP4 = Target.load("rasp4")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_emulate_leaves_no_process(address: Address, end: signal.Signals) -> None:
    """In the middle of a session, too."""
    mark = f"{address[0]}:{address[1]}"
    before = set(processes_with(mark))
    command = [sys.executable, "-m", "mnv2_tvm.device", "emulate", "--target", "rasp5", "--qemu"]
    process = subprocess.Popen([*command, "--tracker", mark, "--count", "2"])
    wait_for_boards(address, "rasp5", 2)
    remote = session(address, "rasp5")
    remote.get_function("mnv2.board_info")()
    # qemu and its forks: two supervisors, two listeners and a session
    wait_until(lambda: len(set(processes_with(mark)) - before) >= 6, "two boards and a session")
    process.send_signal(end)
    assert process.wait(30) == {signal.SIGTERM: 0, signal.SIGINT: 130}.get(end, -9)
    wait_until(lambda: set(processes_with(mark)) <= before, "the end of all processes", 15)
    wait_until(lambda: not summary(address)[1].get("rasp5"), "no board at the tracker", 15)


def test_a_board_registers_again_with_a_new_tracker(here: Target) -> None:
    port = free_port()
    with ready_tracker(port=port) as first, LocalBoards(here, (first.host, port)):
        wait_for_boards((first.host, port), here.name)
        first.close()
        with ready_tracker(port=port) as second:
            wait_for_boards((second.host, port), here.name)


def test_a_board_tries_often_enough_for_a_tracker_that_was_away_for_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever waits for the board waits a few seconds more; and the log stays short."""
    port, pauses, listeners = free_port(), list[float](), list[socket.socket]()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if sum(pauses) > 60:
            listeners.append(socket.create_server(("127.0.0.1", port)))

    monkeypatch.setattr("mnv2_tvm.devices.board.connection.time.sleep", sleep)
    connect_patiently(("127.0.0.1", port)).close()
    listeners[0].close()
    assert max(pauses) <= 5
    assert len(capsys.readouterr().out.splitlines()) < 7


def test_a_listener_that_dies_is_started_again(here: Target) -> None:
    with ready_tracker() as own, LocalBoards(here, (own.host, own.port)) as boards:
        address = own.host, own.port
        wait_for_boards(address, here.name)
        supervisor = boards.processes[0].pid
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children")
        before = children.read_text().split()
        os.kill(int(before[0]), signal.SIGKILL)
        wait_until(lambda: children.read_text().split() not in ([], before), "a new listener")
        wait_for_boards(address, here.name)


@pytest.mark.parametrize("name", ["rasp4-32"])
def test_boards_that_cannot_be_emulated(name: str) -> None:
    with pytest.raises(UserError, match=r"emulation is for 64-bit ARM boards.*rasp4"):
        LocalBoards(Target.load(name), ("127.0.0.1", 1), qemu=True)


def test_emulation_without_qemu_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="apt install qemu-user"):
        LocalBoards(RASP4, ("127.0.0.1", 1), qemu=True)
