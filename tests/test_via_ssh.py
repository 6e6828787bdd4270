"""Programs over a real ssh: to an sshd on loopback, with ARM programs run under qemu there."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ODD
from device_boards import processes_with, wait_until
from program_devices import bench_on, remote, tiny_source
from ssh_server import SshServer, ssh_server

from mnv2_tvm import cli
from mnv2_tvm.bench import main as bench_main
from mnv2_tvm.build import build_program
from mnv2_tvm.devices.program.ssh import Ssh
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.measure.bench import Plan
from mnv2_tvm.measure.bench_result import BenchResult
from mnv2_tvm.target import Target

pytestmark = pytest.mark.usefixtures("on_the_path")
Bench = Callable[..., BenchResult]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("ssh")) as running:
        yield running


@pytest.fixture
def on_the_path(server: SshServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And whatever happens, nothing stays on the board."""
    monkeypatch.setenv("PATH", str(server.bin), prepend=":")
    yield
    assert list(server.there.iterdir()) == []


def bench(target: str, runner: str | None = None, way: str = "ssh:board") -> BenchResult:
    return bench_on(way, Target.load(target), Plan(10, 1, per_layer=True), runner)


def test_bench_on_a_machine_like_this_one(here: Target) -> None:
    result = bench(here.name)
    assert result.relative_error < 1e-4
    assert result.latency.min_ms <= result.latency.median_ms <= result.latency.p90_ms
    assert [row.name for row in result.layers] == [row["name"] for row in result.manifest.layers]
    assert sum(row.time_share for row in result.layers) == pytest.approx(1)
    # The layers together take about what a run does; the machine may be busy.
    assert sum(row.median_us for row in result.layers) < 5e3 * result.latency.median_ms
    assert not result.emulated
    assert result.host["via"] == "ssh:board"
    assert result.memory and 0 < result.memory.rss_growth_bytes < result.memory.peak_rss_bytes
    assert result.peak_share > 0


@pytest.mark.parametrize(
    ("target", "runner"),
    [("rasp4", "qemu-aarch64 -cpu cortex-a72"), ("rasp4-32", "qemu-arm -cpu max")],
)
def test_a_raspberry_pi_that_is_emulated_says_so(target: str, runner: str) -> None:
    result = bench(target, runner)
    assert result.relative_error < 1e-4
    assert result.emulated and result.memory is None
    assert "emulated" in " ".join(result.warnings)
    assert result.host["cpu"] == runner


def test_the_command_line(here: Target, server: SshServer, tmp_path: Path) -> None:
    words = f"--target {here.name} --width 0.35 --resolution 32 --classes 10 --runs 3 --threads 2"
    words += f" --on ssh://board:{server.port} --json {tmp_path / 'out.json'}"
    with pytest.raises(SystemExit) as end:
        cli.run_verb(bench_main, words.split())
    assert end.value.code == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["threads"] == 2 and result["runs"] == 3


def test_a_batch_and_odd_shapes(here: Target) -> None:
    result = bench_on("ssh:board", here, Plan(1, 0), threads=2, architecture=ODD)
    assert result.relative_error < 1e-4 and result.threads == 2


def refused(match: str, kind: Kind, *arguments: str | None) -> None:
    """`bench` with the arguments ends with a sentence of the kind."""
    with pytest.raises(DeviceError, match=match) as caught:
        bench(*arguments)  # type: ignore[arg-type]
    assert caught.value.kind == kind


def test_a_machine_of_another_kind(foreign: Target) -> None:
    match = rf"ssh:board is \w+; {foreign.name} is for {foreign.host.machine}.*--target"
    refused(match, Kind.REFUSED, foreign.name)


def test_an_instruction_that_the_cpu_lacks() -> None:
    match = r"SIGILL: its CPU lacks an instruction of x86-avx512, which needs .*avx512f.*--target"
    refused(match, Kind.CRASH, "x86-avx512", "qemu-x86_64 -cpu Nehalem")


def test_a_runner_that_is_not_there(here: Target) -> None:
    refused("cannot start nowhere .*not found", Kind.UPLOAD, here.name, "nowhere --fast")


@pytest.mark.parametrize(
    ("host", "match"),
    [
        ("keyless", "Permission denied.*; give it your key: ssh-copy-id keyless"),
        ("stranger", "Host key verification failed.*; see and accept its key once: ssh stranger"),
        ("ssh://board:1", "refused; start the server there"),
        ("no-such-host.invalid", "Could not resolve.*; check the name"),
    ],
)
def test_a_way_that_fails(here: Target, host: str, match: str) -> None:
    way = host if host.startswith("ssh://") else f"ssh:{host}"
    refused(match, Kind.LINK, here.name, None, way)


def replace_ssh(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "ssh"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def test_a_connection_that_hangs(
    here: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_ssh("exec sleep 60", tmp_path, monkeypatch)
    monkeypatch.setattr("mnv2_tvm.devices.program.remote._SHELL_S", 0.5)
    refused("ssh:board did not answer within .* telling about itself", Kind.TIMEOUT, here.name)


def test_no_ssh_here(here: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    refused("ssh is not installed here; apt install openssh-client", Kind.LINK, here.name)


@pytest.mark.parametrize(
    "host", ["-oProxyCommand=id", "", "a b", "a;b", "me@-x", "ssh://", "-l", "$(id)", "a\nb", "@a"]
)
def test_a_host_cannot_be_an_option_or_a_command(host: str) -> None:
    with pytest.raises(UserError, match="no host for ssh"):
        Ssh(host)


@pytest.mark.parametrize("host", ["pi", "pi@board", "10.0.0.7", "fe80::1%eth0", "a_b.example.org"])
def test_what_ssh_takes_is_a_host(host: str) -> None:
    assert Ssh(host).host == host


def connections(server: SshServer) -> int:
    """How many the server has accepted until now."""
    return server.log.read_text().count("Accepted publickey")


def test_all_commands_share_a_connection_that_ends_with_them(
    here: Target, server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = connections(server)
    with remote("ssh:board", here) as device:
        device.ask()
        assert connections(server) == before + 1
        assert processes_with(f"{tmp_path}/mnv2-")
    wait_until(lambda: not processes_with(f"{tmp_path}/mnv2-"), "the connection ends", 20)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_too_long_for_a_socket_costs_connections_alone(
    here: Target, server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (long := tmp_path / (60 * "x") / (60 * "y")).mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(long))
    before = connections(server)
    with remote("ssh:board", here) as device:
        device.ask()
    assert connections(server) > before + 1


def test_a_connection_that_the_user_shares_is_taken(here: Target, server: SshServer) -> None:
    with remote("ssh:sharing", here):
        assert server.shared.exists()
    assert server.shared.exists(), "it is theirs to end"
    subprocess.run(["ssh", "-O", "exit", "sharing"], check=True, capture_output=True)


def test_a_lost_connection_is_made_anew(
    here: Target, server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = connections(server)
    with remote("ssh:board", here) as device:
        for process in processes_with(f"{tmp_path}/mnv2-"):
            os.kill(process, signal.SIGKILL)
        device.reenter()
    assert connections(server) == before + 2


def test_a_deadline_ends_the_program_on_the_device(here: Target, tmp_path: Path) -> None:
    program = tmp_path / "mnv2_bench"
    build_program(here, tiny_source(), program)
    with remote("ssh:board", here) as device:
        path = device.upload(program)
        with pytest.raises(DeviceError, match="was not done within 1 s") as caught:
            device.run(path, ["--runs", "1000000"], 1)
        assert processes_with(path) == []
    assert caught.value.kind == Kind.TIMEOUT
