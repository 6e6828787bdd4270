"""A real sshd on loopback for the current user, and an `ssh` that knows it as the host `board`."""

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from device_boards import wait_until

SERVER = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv TMPDIR={folder}/there
"""
CLIENT = """\
Host stranger
    UserKnownHostsFile /dev/null
Host sharing
    ControlMaster auto
    ControlPath {folder}/sharing
    ControlPersist 60
Host board stranger sharing
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/key
    UserKnownHostsFile {folder}/known_hosts
Host keyless
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/host_key
    UserKnownHostsFile {folder}/known_hosts
Host *
    IdentitiesOnly yes
    StrictHostKeyChecking yes
"""


@dataclass(frozen=True)
class SshServer:
    """`bin` is to come first on the PATH; `there` is the folder for temporary ones on the board.

    The host `sharing` is `board` for a user who shares connections by the socket `shared`.
    """

    port: int
    bin: Path
    there: Path
    log: Path
    shared: Path


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """The server, until the block ends. Its keys and settings are in `folder`."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    client = shutil.which("ssh")
    assert sshd and client, "no sshd or ssh; apt install openssh-server openssh-client"
    if os.getuid() == 0:  # sshd wants it for its unprivileged part
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name in ("key", "host_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = {"folder": folder, "port": port, "user": getpass.getuser()}
    (folder / "sshd_config").write_text(SERVER.format(**words))
    (folder / "ssh_config").write_text(CLIENT.format(**words))
    public = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    for name in ("bin", "there"):
        (folder / name).mkdir()
    command = folder / "bin" / "ssh"
    command.write_text(f'#!/bin/sh\nexec {client} -F {folder}/ssh_config "$@"\n')
    command.chmod(0o700)
    words_of, shared = folder / "log", folder / "sharing"
    with words_of.open("wb") as log:
        server = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        wait_until(lambda: _listens(port) or server.poll() is not None, "sshd listens", 20)
        assert server.poll() is None, words_of.read_text()
        yield SshServer(port, command.parent, folder / "there", words_of, shared)
    finally:
        server.terminate()
        server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
