"""A device over the user's own `ssh`: its configuration, keys and known hosts are theirs.

Files go through `cat` on the other side, which asks for no SFTP server there. All commands of a run
share one connection, whose process ssh leaves in the background: that of `ControlMaster auto`.
"""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import AddressValueError, IPv6Address
from pathlib import Path

from mnv2_tvm.commands import MOST_BYTES, Outcome, run_command
from mnv2_tvm.devices.program.transport import quoted_sh
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.files import scratch_folder
from mnv2_tvm.untrusted import printable

# Never a question that nobody is there to answer; a host that is gone is noticed within 20 s.
_OPTIONS = "-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3"
# It ends when nobody has used it for a minute, should this process be killed.
_SHARING = "-o ControlMaster=auto -o ControlPersist=60 -o ControlPath="
_SHARED_ALREADY = re.compile(r"^controlpath (?!none$)", re.MULTILINE)  # in `ssh -G`
_CLOSE_S = 5.0
_SOCKET = "ssh"  # in the run's own folder
# No word starts with `-`: ssh would take it for an option.
_DESTINATION = re.compile(
    r"((?P<user>[\w.+][\w.+-]*)@)?"
    r"(\[(?P<bracketed>[^]]+)\]|(?P<bare>[^]:/[]+)|(?P<v6>[^]/[]+))"
    r"(?(v6)|(:(?P<port>[0-9]{1,5}))?)",
    re.ASCII,
)
_HOST = re.compile(r"[\w.][\w.-]{0,252}", re.ASCII)
_ZONE = re.compile(r"[^%]+(%[\w.-]+)?", re.ASCII)  # of a link-local address: its interface
_ITSELF = 255  # exit code where ssh, not the command, failed
_INSTALL = "apt install openssh-client"
_REMEDIES = (  # what ssh says, and what helps
    ("permission denied", "give it your key: ssh-copy-id {host}"),
    ("too many authentication failures", "name the key in ~/.ssh/config with IdentitiesOnly yes"),
    ("host key verification failed", "see and accept its key once: ssh {host} true"),
    ("could not resolve", "check the name, or write it into ~/.ssh/config"),
    ("connection refused", "start the server there: sudo systemctl enable --now ssh"),
)


class Ssh:
    """A host of ~/.ssh/config or of the network: [USER@]HOST[:PORT], with or without `ssh://`.

    An IPv6 address stands in brackets where a port follows.
    """

    # TMPDIR is for a device whose /tmp is small, or runs no programs.
    folder = '"${TMPDIR:-/tmp}/mnv2-XXXXXX"'

    def __init__(self, text: str) -> None:
        match = _DESTINATION.fullmatch(text.removeprefix("ssh://").removesuffix("/"))
        host = match and (match["bare"] or match["bracketed"] or match["v6"])
        port = int((match and match["port"]) or 22)
        if not match or not _is_host(host, by_name=bool(match["bare"])) or not 0 < port < 65536:
            raise UserError(
                f"'{printable(text)}' is no host for ssh; give --on ssh:HOST, ssh:USER@HOST:PORT "
                "or ssh:USER@[IPV6]:PORT"
            )
        self.host = f"{match['user']}@{host}" if match["user"] else str(host)
        self._port = ["-p", str(port)] if match["port"] else []  # else that of ~/.ssh/config
        self.name = text if text.startswith("ssh://") else f"ssh:{text}"
        self._place: Path | None = None  # of the socket to share, until `_sharing` has decided
        self._shared: list[str] = []

    @contextmanager
    def connected(self) -> Iterator[None]:
        """One connection for all commands of the block; that of ~/.ssh/config, if it shares one."""
        with scratch_folder() as folder:
            self._place = _place_for_socket(folder)
            try:
                yield
            finally:
                if self._shared and (folder / _SOCKET).exists():
                    words = [*self._shared, "-O", "exit", *self._port, "--", self.host]
                    with suppress(DeviceError):
                        self._ssh(words, _CLOSE_S, "closing the connection")
                self._place, self._shared = None, []

    def shell(
        self, script: str, seconds: float, doing: str, most_bytes: int = MOST_BYTES
    ) -> Outcome:
        """Run a script there. Raises DeviceError of kind link or timeout."""
        return self._run(script, seconds, doing, None, most_bytes)

    def push(self, local: Path, remote: str, seconds: float) -> Outcome:
        """Copy a file there."""
        return self._run(f"cat >{remote}", seconds, f"taking {local.name}", local, MOST_BYTES)

    def _run(
        self, script: str, seconds: float, doing: str, stdin: Path | None, most_bytes: int
    ) -> Outcome:
        options = [*_OPTIONS.split(), *self._sharing(seconds, doing), *self._port]
        command = [*options, "--", self.host, quoted_sh(script)]
        done = self._ssh(command, seconds, doing, stdin, most_bytes)
        if done.code == _ITSELF:
            remedy = next(
                (remedy for sign, remedy in _REMEDIES if sign in done.stderr.lower()),
                "this must work without a question: ssh {host} true",
            )
            host = " ".join([*self._port, self.host])
            words = f"ssh failed while {self.name} was {doing}: {done.words}"
            raise DeviceError(Kind.LINK, f"{words}; {remedy.format(host=host)}", self.name)
        return done

    def _sharing(self, seconds: float, doing: str) -> list[str]:
        """Options for a connection of ours, unless the user's settings name one for this host.

        Theirs may be the only one that asks for no password.
        """
        if self._place:
            told = self._ssh(["-G", *self._port, "--", self.host], seconds, doing)
            if told.code == 0 and not _SHARED_ALREADY.search(told.stdout):
                self._shared = f"{_SHARING}{self._place}".split()
            self._place = None
        return self._shared

    def _ssh(
        self,
        words: list[str],
        seconds: float,
        doing: str,
        stdin: Path | None = None,
        most_bytes: int = MOST_BYTES,
    ) -> Outcome:
        return run_command(["ssh", *words], self.name, seconds, doing, _INSTALL, stdin, most_bytes)


def _place_for_socket(folder: Path) -> Path | None:
    """Where ssh can keep the socket of a connection; None where it would give up.

    It makes one of a longer name and links it, which not every file system and path allows.
    """
    place, made = folder / _SOCKET, folder / f"{_SOCKET}.{16 * 'x'}"
    if not re.fullmatch(r"[\w/.+-]+", str(place), re.ASCII):
        return None  # ssh reads a blank, a quote and a percent sign in it as more than that
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(made))
        place.hardlink_to(made)
        place.unlink()
        made.unlink()
    except OSError:
        return None
    return place


def _is_host(text: str | None, by_name: bool) -> bool:
    """Whether it is a name or an IPv4 address, or else an IPv6 one."""
    if by_name or text is None:
        return text is not None and _HOST.fullmatch(text) is not None
    try:
        return _ZONE.fullmatch(text) is not None and bool(IPv6Address(text).packed)
    except AddressValueError:
        return False
