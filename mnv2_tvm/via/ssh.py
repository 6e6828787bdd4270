"""A device over the user's own `ssh`: its configuration, keys and known hosts are theirs.

Files go through `cat` on the other side, which asks for no SFTP server there.
"""

import re
from ipaddress import AddressValueError, IPv6Address
from pathlib import Path

from mnv2_tvm.device.failure import DeviceError, Kind
from mnv2_tvm.errors import UserError
from mnv2_tvm.untrusted import printable
from mnv2_tvm.via.transport import MOST_BYTES, Outcome, quoted_sh, run_command

# Never a question that nobody is there to answer; a host that is gone is noticed within 20 s.
_OPTIONS = "-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3"
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
                f"'{printable(text)}' is no host for ssh; give --via ssh:HOST, ssh:USER@HOST:PORT "
                "or ssh:USER@[IPV6]:PORT"
            )
        self.host = f"{match['user']}@{host}" if match["user"] else str(host)
        self._port = ["-p", str(port)] if match["port"] else []  # else that of ~/.ssh/config
        self.name = text if text.startswith("ssh://") else f"ssh:{text}"

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
        command = ["ssh", *_OPTIONS.split(), *self._port, "--", self.host, quoted_sh(script)]
        done = run_command(command, self.name, seconds, doing, _INSTALL, stdin, most_bytes)
        if done.code == _ITSELF:
            remedy = next(
                (remedy for sign, remedy in _REMEDIES if sign in done.stderr.lower()),
                "this must work without a question: ssh {host} true",
            )
            host = " ".join([*self._port, self.host])
            words = f"ssh failed while {self.name} was {doing}: {done.words}"
            raise DeviceError(Kind.LINK, f"{words}; {remedy.format(host=host)}", self.name)
        return done


def _is_host(text: str | None, by_name: bool) -> bool:
    """Whether it is a name or an IPv4 address, or else an IPv6 one."""
    if by_name or text is None:
        return text is not None and _HOST.fullmatch(text) is not None
    try:
        return _ZONE.fullmatch(text) is not None and bool(IPv6Address(text).packed)
    except AddressValueError:
        return False
