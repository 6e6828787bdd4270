"""Tracker, boards, kit and list: real processes on the loopback, an emulated board among them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tvm
from conftest import run_python
from device_boards import (
    Address,
    crashing_library,
    free_port,
    processes_with,
    session,
    upload,
    wait_for_boards,
    wait_until,
)
from tvm.rpc.base import TrackerCode

from mnv2_tvm.device.emulate import LocalBoards
from mnv2_tvm.device.kit import write_kit
from mnv2_tvm.device.listing import Board, board_table, list_boards, summary
from mnv2_tvm.device.tracker import Tracker, ask, connect, parse_address, start_tracker
from mnv2_tvm.device.userland import find_qemu
from mnv2_tvm.errors import UserError
from mnv2_tvm.layer import Layer
from mnv2_tvm.network import relative_error
from mnv2_tvm.passes.packed_entry import ENTRY
from mnv2_tvm.pipeline import default_schedule
from mnv2_tvm.search.candidate import build_candidate
from mnv2_tvm.search.problem import TOLERANCE, problem
from mnv2_tvm.target import Target
from mnv2_tvm.versions import versions

LAYER = Layer("pwconv", 1, 7, 7, 16, 24)
RASP4 = Target.load("rasp4")


@pytest.fixture(scope="module")
def tracker() -> Iterator[Tracker]:
    with start_tracker(port=0) as tracker:
        yield tracker


@pytest.fixture(scope="module")
def address(tracker: Tracker) -> Address:
    return tracker.host, tracker.port


@pytest.fixture(scope="module", params=["emulated", "local"])
def board(request: pytest.FixtureRequest, address: Address, here: Target) -> Iterator[Target]:
    """The target of one free board: a Raspberry Pi 4 under qemu, or this machine itself."""
    target = RASP4 if request.param == "emulated" else here
    if target is RASP4:
        try:
            find_qemu()
        except UserError as error:
            pytest.fail(f"the emulated board cannot be tested: {error}")
    with LocalBoards(target, address):
        wait_for_boards(address, target.name)
        yield target


def test_a_board_tells_what_it_is(address: Address, board: Target) -> None:
    wait_for_boards(address, board.name)
    remote = session(address, board.name)
    info = json.loads(remote.get_function("mnv2.board_info")())
    assert info["machine"] == board.host.machine
    assert info["emulated"] == (board is RASP4)
    assert info["cores"] >= 1
    for package in ("apache-tvm", "apache-tvm-ffi"):
        assert info[package] == versions()[package]
    if info["emulated"]:
        assert info["clock_mhz"] is None and info["temperature_c"] is None
    else:
        assert set(board.host.features) <= set(info["features"])


def test_a_library_runs_on_the_board(address: Address, board: Target, tmp_path: Path) -> None:
    schedule = default_schedule(LAYER, board)
    library = build_candidate(LAYER, schedule, board.name, tmp_path / "layer.so")
    wait_for_boards(address, board.name)
    remote = session(address, board.name)
    upload(remote, library)
    module = remote.load_module("layer.so")
    device = remote.cpu()
    task = problem(LAYER)
    arguments = [tvm.runtime.tensor(a, device) for a in task.arguments(LAYER, schedule)]
    y = tvm.runtime.tensor(np.full(LAYER.output_shape, np.nan, np.float32), device)
    module[ENTRY](*arguments, y)
    assert relative_error(y.numpy(), task.reference) <= TOLERANCE
    seconds = module.time_evaluator(ENTRY, device, number=1, repeat=3)(*arguments, y).results
    assert all(second > 0 for second in seconds)


def test_a_crash_costs_one_session(address: Address, board: Target, tmp_path: Path) -> None:
    library = crashing_library(board, tmp_path)
    for _ in range(2):
        wait_for_boards(address, board.name)
        remote = session(address, board.name)
        upload(remote, library)
        crash = remote.load_module("crash.so")["crash"]
        with pytest.raises(Exception, match=r".+"):
            crash()
        del crash, remote
    test_a_board_tells_what_it_is(address, board)


def test_a_session_that_hangs_ends_at_its_timeout(
    address: Address, board: Target, tmp_path: Path
) -> None:
    library = crashing_library(board, tmp_path)
    wait_for_boards(address, board.name)
    started = time.monotonic()
    remote = session(address, board.name, timeout_s=3)
    upload(remote, library)
    hang = remote.load_module("crash.so")["hang"]
    with pytest.raises(Exception, match=r".+"):
        hang()
    assert time.monotonic() - started < 30
    del hang, remote
    test_a_board_tells_what_it_is(address, board)


def test_who_connects_and_says_nothing_does_not_keep_the_board(
    address: Address, board: Target
) -> None:
    wait_for_boards(address, board.name)
    (there,) = [b for b in summary(address)[0] if b.key == board.name]
    with socket.create_connection((there.host, there.port)):
        time.sleep(0.5)
        test_a_board_tells_what_it_is(address, board)


def test_list_shows_free_and_busy_boards(address: Address, board: Target) -> None:
    wait_for_boards(address, board.name)
    (free,) = [b for b in list_boards(address) if b.key == board.name]
    assert free.state == "free"
    assert free.info["emulated"] == (board is RASP4)
    wait_for_boards(address, board.name)
    remote = session(address, board.name)
    (busy,) = [b for b in list_boards(address) if b.key == board.name]
    assert (busy.state, busy.info) == ("busy", {})
    del remote
    wait_for_boards(address, board.name)
    done = run_python("-m", "mnv2_tvm.device", "list", "--tracker", "{}:{}".format(*address))
    assert done.returncode == 0, done.stderr
    assert board.name in done.stdout and "free" in done.stdout
    assert ("emulated" in done.stdout) == (board is RASP4)


def test_list_names_a_board_that_does_not_answer(address: Address) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, closing(connect(address)) as connection:
        where = ("127.0.0.1", silent.getsockname()[1])
        ask(connection, TrackerCode.UPDATE_INFO, {"key": "server:mute", "addr": where})
        ask(connection, TrackerCode.PUT, "mute", (where[1], "mute:0.5"), None)
        started = time.monotonic()
        (board,) = [b for b in list_boards(address) if b.key == "mute"]
        assert time.monotonic() - started < 10
        assert board.state == "no answer"


def test_a_table_shows_what_a_warm_board_tells(capsys: pytest.CaptureFixture[str]) -> None:
    info = {"apache-tvm": "1", "apache-tvm-ffi": "2", "clock_mhz": 1500.0, "temperature_c": 61.2}
    table = board_table([Board("rasp4", "10.0.0.7", 9091, "free", info)])
    cells = [next(iter(column.cells)) for column in table.columns]
    assert [str(cell) for cell in cells] == [
        *("rasp4", "10.0.0.7:9091", "free", "1 ffi 2", "", "", "1500", "61", "")
    ]


def test_list_ends_soon_without_a_tracker() -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match=r"no tracker at 127\.0\.0\.1:\d+ .*device tracker --port"):
        list_boards(("127.0.0.1", free_port()))
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(UserError, match="it does not answer"),
    ):
        list_boards(("127.0.0.1", silent.getsockname()[1]))
    assert time.monotonic() - started < 7


def test_list_without_boards_says_how_to_get_one() -> None:
    with start_tracker(port=0) as tracker:
        done = run_python("-m", "mnv2_tvm.device", "list", "--tracker", tracker.address)
        assert done.returncode == 1
        assert "no board is registered" in done.stderr and "device kit" in done.stderr


def test_a_tracker_on_a_taken_port_is_refused(tracker: Tracker) -> None:
    with pytest.raises(UserError, match=f"cannot listen on {tracker.address}"):
        start_tracker(port=tracker.port)


def test_an_address_is_host_and_port() -> None:
    assert parse_address("pi.local:77") == ("pi.local", 77)
    assert parse_address("pi.local") == ("pi.local", 9190)
    for wrong in ("", ":", ":9190", "pi:", "pi:x", "pi:0", "pi:70000"):
        with pytest.raises(UserError, match="is not HOST:PORT"):
            parse_address(wrong)


def test_an_open_tracker_warns() -> None:
    command = [sys.executable, "-m", "mnv2_tvm.device", "tracker", "--host", "0.0.0.0", "--port"]
    with subprocess.Popen([*command, "0"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.terminate()
    assert "warning: the tracker listens on 0.0.0.0" in line
    assert "no authentication" in line


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_emulate_leaves_no_process(address: Address, end: signal.Signals) -> None:
    """In the middle of a session, too."""
    mark = f"{address[0]}:{address[1]}"
    before = set(processes_with(mark))
    command = [sys.executable, "-m", "mnv2_tvm.device", "emulate", "--target", "rasp5"]
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
    with start_tracker(port=port) as first, LocalBoards(here, (first.host, port)):
        wait_for_boards((first.host, port), here.name)
        first.close()
        with start_tracker(port=port) as second:
            wait_for_boards((second.host, port), here.name)


def test_a_listener_that_dies_is_started_again(here: Target) -> None:
    with start_tracker(port=0) as own, LocalBoards(here, (own.host, own.port)) as boards:
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
        LocalBoards(Target.load(name), ("127.0.0.1", 1))


def test_emulation_without_qemu_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="apt install qemu-user"):
        LocalBoards(RASP4, ("127.0.0.1", 1))


def test_a_kit_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    kit = write_kit(RASP4, tmp_path / "kit")
    names = {path.name for path in kit.iterdir()}
    assert names == {"board", "install.sh", "requirements.txt", "README.txt"}
    pins = [f"{name}=={versions()[name]}" for name in ("apache-tvm", "apache-tvm-ffi")]
    assert (kit / "requirements.txt").read_text().split() == pins
    for name in ("install.sh", "README.txt"):
        text = (kit / name).read_text()
        assert "rasp4" in text and "@" not in text.replace('"$@"', "")
    write_kit(Target.load("rasp5"), kit)
    assert "rasp5" in (kit / "install.sh").read_text()
    (kit / "mine").touch()
    with pytest.raises(UserError, match="is no kit"):
        write_kit(RASP4, kit)
    assert [path.name for path in tmp_path.iterdir()] == ["kit"]


@pytest.mark.parametrize("name", ["android", "android-dotprod", "rasp4-32"])
def test_there_is_no_kit_without_wheels(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=name):
        write_kit(Target.load(name), tmp_path / "kit")
    assert not list(tmp_path.iterdir())


def test_a_kit_for_another_machine_says_so(tmp_path: Path) -> None:
    kit = write_kit(RASP4, tmp_path / "kit")
    command = [kit / "install.sh", "--tracker", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "this kit is for aarch64" in done.stderr
    assert not (kit / "venv").exists()


def test_a_kit_installs_itself_and_registers(here: Target, tmp_path: Path) -> None:
    """For real, pip and all; then with --boot, where a script stands for systemctl."""
    kit = write_kit(here, tmp_path / "kit")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {tools}/calls\n')
    (tools / "systemctl").chmod(0o755)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
        "HOME": str(tmp_path),
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PIP_CACHE_DIR": str(Path.home() / ".cache/pip"),
    }
    port = free_port()
    command = [str(kit / "install.sh"), "--port", str(port), "--tracker"]
    with start_tracker(port=0) as own:
        address = own.host, own.port
        with subprocess.Popen([*command, own.address], env=environment) as process:
            try:
                wait_for_boards(address, here.name)
                (board,) = list_boards(address)
            finally:
                process.terminate()
    assert process.returncode == 0
    assert (board.port, board.state) == (port, "free")
    assert board.info["apache-tvm"] == versions()["apache-tvm"]
    command += ["10.0.0.7:9190", "--host", "0.0.0.0", "--boot"]
    subprocess.run(command, env=environment, check=True, timeout=120)
    unit = kit / "mnv2-board.service"
    assert (tools / "calls").read_text().splitlines()[0] == f"enable --now {unit}"
    lines = dict(line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line)
    assert lines["WorkingDirectory"] == str(kit)
    options = f"--tracker 10.0.0.7:9190 --key {here.name} --host 0.0.0.0 --port {port}"
    assert lines["ExecStart"].strip() == f'"{kit}/venv/bin/python" -m board.serve {options}'
    assert lines["Restart"] == "always"


def test_a_board_out_of_reach_of_its_tracker_is_refused(tmp_path: Path) -> None:
    kit = write_kit(RASP4, tmp_path / "kit")
    command = [sys.executable, "-m", "board.serve", "--key", "rasp4", "--tracker", "10.0.0.7:9190"]
    done = subprocess.run(command, cwd=kit, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--host 0.0.0.0" in done.stderr
