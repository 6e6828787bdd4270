"""Boards with TVM's own RPC server, here its Python one: a real one, under the target's name."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Built, run_python
from device_boards import free_port, ready_tracker, wait_for_boards
from rich.console import Console
from tvm.rpc.base import TrackerCode

from mnv2_tvm import load
from mnv2_tvm.bench import bench_remotely
from mnv2_tvm.bench_result import summary as bench_summary
from mnv2_tvm.cli import run_verb
from mnv2_tvm.device.emulate import LocalBoards
from mnv2_tvm.device.listing import list_boards
from mnv2_tvm.device.plain_server import NOTHING_TOLD, WARNING
from mnv2_tvm.device.remote_network import RemoteNetwork
from mnv2_tvm.device.session import Address, Session
from mnv2_tvm.device.tracker import Tracker, ask, connect
from mnv2_tvm.errors import UserError
from mnv2_tvm.images import load_image
from mnv2_tvm.run import main as run_main
from mnv2_tvm.search.records import TuningLog
from mnv2_tvm.target import Target
from mnv2_tvm.tune import tune

CAT = Path(load_image.__code__.co_filename).parent / "samples" / "cat.jpg"


@pytest.fixture(scope="module")
def stock(tracker: Tracker, here: Target) -> Iterator[Address]:
    """`python -m tvm.exec.rpc_server`, as TVM's documents start it."""
    port = free_port()
    command = [sys.executable, "-m", "tvm.exec.rpc_server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--port-end", str(port + 1)]
    command += ["--tracker", tracker.address, "--key", here.name]
    address = Address((tracker.host, tracker.port), here.name, plain=True)
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            wait_for_boards(address.tracker, address.key)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # TVM leaves its child


def test_it_is_refused_without_the_option(stock: Address) -> None:
    wait_for_boards(stock.tracker, stock.key)
    with pytest.raises(UserError, match=r"not ours.*versions.*give --plain-server"):
        Session(Address(stock.tracker, stock.key))


def test_a_library_runs_there(stock: Address, tiny: Built) -> None:
    wait_for_boards(stock.tracker, stock.key)
    images = tiny.network.images(1)
    with closing(Session(stock)) as session:
        assert session.info is NOTHING_TOLD
        assert session.ask() is NOTHING_TOLD
        logits = RemoteNetwork(session, tiny.folder)(images)
    np.testing.assert_array_equal(logits, load(tiny.folder)(images))


def test_bench_says_what_is_not_known(stock: Address, tiny: Built) -> None:
    wait_for_boards(stock.tracker, stock.key)
    result = bench_remotely(tiny.folder, tiny.network, stock, runs=5, warmup=1, per_layer=True)
    assert WARNING in result.warnings
    assert result.peak_share == pytest.approx(result.gflop_per_s / result.peak_gflop_per_s)
    assert result.host["clocks_mhz"] == []
    assert "None" not in result.to_json().split('"manifest"')[0]
    console = Console(file=StringIO(), width=200)
    console.print(bench_summary(result))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "unknown (TVM's own RPC server)" in text and "None" not in text and WARNING in text


def test_a_search_measures_there(stock: Address, here: Target, tmp_path: Path) -> None:
    wait_for_boards(stock.tracker, stock.key)
    said = StringIO()
    report = tune(
        here,
        TINY,
        trials=4,
        layer="f32-dwconv-3x3s1-4x4x*",
        log_dir=tmp_path,
        tracker=stock.tracker,
        plain_server=True,
        console=Console(file=said, width=400),
    )
    assert report.tally.failed == 0
    assert all(one.median_us is not None for one in TuningLog.of(here, tmp_path).measurements())
    assert f"warning: {WARNING}" in said.getvalue()
    assert "unknown" in report.records[0].provenance["cpu"]


def test_run_warns_on_stderr_alone(
    stock: Address, tiny: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_for_boards(stock.tracker, stock.key)
    options = [str(tiny.folder), "--image", str(CAT), "--check"]
    there = ["--tracker", "{}:{}".format(*stock.tracker), "--plain-server"]
    streams = []
    for command in (options, [*options, *there]):
        with pytest.raises(SystemExit) as ended:
            run_verb(run_main, command)
        assert ended.value.code == 0
        streams.append(capsys.readouterr())
    here, board = streams
    assert board.out == here.out
    assert (here.err, board.err) == ("", f"warning: {WARNING}\n")


def test_list_shows_it_with_unknown_versions(stock: Address) -> None:
    wait_for_boards(stock.tracker, stock.key)
    done = run_python("-m", "mnv2_tvm.device", "list", "--tracker", "{}:{}".format(*stock.tracker))
    assert done.returncode == 0, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if stock.key in line]
    assert row.split()[2:4] == ["free", "unknown"]
    assert "--plain-server" in row


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


def test_the_option_does_not_spare_our_own_server(
    here: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ready_tracker() as own, LocalBoards(here, (own.host, own.port)):
        address = Address((own.host, own.port), here.name, plain=True)
        wait_for_boards(address.tracker, address.key)
        with closing(Session(address)) as session:
            assert session.info["machine"] == here.host.machine
        other = {"apache-tvm": "0.28.0", "apache-tvm-ffi": "0"}
        monkeypatch.setattr("mnv2_tvm.device.session.versions", lambda: other)
        wait_for_boards(address.tracker, address.key)
        with pytest.raises(UserError, match=r"apache-tvm .*this host 0\.28\.0"):
            Session(address)


@pytest.mark.parametrize("verb", ["run", "bench", "tune"])
def test_the_option_is_for_boards(verb: str, tiny: Built, here: Target) -> None:
    options = {
        "run": [tiny.folder, "--image", CAT],
        "bench": ["--library", tiny.folder],
        "tune": ["--target", here.name],
    }[verb]
    done = run_python("-m", f"mnv2_tvm.{verb}", *options, "--plain-server")
    assert done.returncode == 1
    assert "--plain-server is for boards: it goes with --tracker" in done.stderr
