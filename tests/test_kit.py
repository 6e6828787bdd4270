"""The kit for a board: whole or not at all, and it installs itself, pip and all."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from device_boards import free_port, ready_tracker, wait_for_boards

from mnv2_tvm.devices.rpc.kit import write_kit
from mnv2_tvm.devices.rpc.listing import list_boards
from mnv2_tvm.errors import UserError
from mnv2_tvm.target import Target
from mnv2_tvm.versions import versions

RASP4 = Target.load("rasp4")


def test_a_kit_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    kit = write_kit(RASP4, tmp_path / "kit")
    names = {path.name for path in kit.iterdir()}
    assert names == {"board", "install.sh", "requirements.txt", "README.txt", "SHA256SUMS"}
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=kit, check=True)
    pins = re.findall(r"^(\S+)==(\S+)", (kit / "requirements.txt").read_text(), re.MULTILINE)
    wanted = {name: versions()[name] for name in ("apache-tvm", "apache-tvm-ffi")}
    assert wanted.items() <= dict(pins).items()
    for name in ("install.sh", "README.txt"):
        text = (kit / name).read_text()
        assert "rasp4" in text and "@" not in text.replace('"$@"', "")
    write_kit(Target.load("rasp5"), kit)
    assert "rasp5" in (kit / "install.sh").read_text()
    (kit / "board/__pycache__").mkdir()
    write_kit(RASP4, kit)
    assert [path.name for path in tmp_path.iterdir()] == ["kit"]


@pytest.mark.parametrize("path", ["mine", "board/mine.py", "install.sh", "board/serve.py", "mine/"])
def test_what_a_user_put_into_a_kit_stays(tmp_path: Path, path: str) -> None:
    kit = write_kit(RASP4, tmp_path / "kit")
    if path.endswith("/"):
        (kit / path).symlink_to(tmp_path)
    else:
        with (kit / path).open("a") as file:
            file.write("# mine\n")
    before = sorted(kit.rglob("*"))
    with pytest.raises(UserError, match="is no kit"):
        write_kit(RASP4, kit)
    assert sorted(kit.rglob("*")) == before


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
    script(tools / "systemctl", f'echo "$@" >> {tools}/calls')
    script(tools / "sudo", 'exec "$@"')
    installed = tmp_path / "mnv2-board.service"
    installed.symlink_to(kit / "mnv2-board.service")  # of an earlier kit
    script(
        tools / "install",
        f'[ "$4" = /etc/systemd/system/{installed.name} ]',
        f'exec {shutil.which("install")} "$1" "$2" "$3" {installed}',
    )
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
        "HOME": str(tmp_path),
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PIP_CACHE_DIR": str(Path.home() / ".cache/pip"),
    }
    port = free_port()
    command = [str(kit / "install.sh"), "--port", str(port), "--tracker"]
    with ready_tracker() as own:
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
    done = subprocess.run([*command, "--user", "root"], env=environment, check=False)
    assert done.returncode == 1 and not (tools / "calls").exists()
    command += ["--user", "nobody"]
    subprocess.run(command, env=environment, check=True, timeout=120)
    assert "enable mnv2-board.service" in (tools / "calls").read_text().splitlines()
    assert not installed.is_symlink(), "a link to a file of the user's makes him root"
    assert stat.S_IMODE(installed.stat().st_mode) == 0o644
    assert not (kit / "mnv2-board.service").exists()
    lines = dict(line.split("=", 1) for line in installed.read_text().splitlines() if "=" in line)
    assert lines["WorkingDirectory"] == str(kit)
    options = f"--tracker 10.0.0.7:9190 --key {here.name} --host 0.0.0.0 --port {port}"
    assert lines["ExecStart"].strip() == f'"{kit}/venv/bin/python" -m board.serve {options}'
    assert (lines["Restart"], lines["User"]) == ("always", "nobody")


def test_a_server_of_root_is_refused_before_anything_is_installed(
    here: Target, tmp_path: Path
) -> None:
    kit = write_kit(here, tmp_path / "kit")
    script(tmp_path / "id", 'case "$1" in -un) echo root ;; -u) echo 0 ;; esac')
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [kit / "install.sh", "--tracker", "[::1]:9190", "--boot"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "--user NAME" in done.stderr
    assert not (kit / "venv").exists()


def script(path: Path, *lines: str) -> None:
    """A program that stands for one of the system's."""
    path.write_text("\n".join(["#!/bin/sh -e", *lines, ""]))
    path.chmod(0o755)


def test_a_board_out_of_reach_of_its_tracker_is_refused(tmp_path: Path) -> None:
    kit = write_kit(RASP4, tmp_path / "kit")
    command = [sys.executable, "-m", "board.serve", "--key", "rasp4", "--tracker", "10.0.0.7:9190"]
    done = subprocess.run(command, cwd=kit, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--host 0.0.0.0" in done.stderr
