"""A device over the user's own `ssh`: its configuration, keys and known hosts are theirs.

Files go through `cat` on the other side, which asks for no SFTP server there.
"""

import re
from pathlib import Path

from mnv2_tvm.device.failure import DeviceError, Kind
from mnv2_tvm.errors import UserError
from mnv2_tvm.via.transport import Outcome, quoted_sh, run_command

# Never a question that nobody is there to answer; a host that is gone is noticed within 20 s.
_OPTIONS = "-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3"
_DESTINATION = re.compile(r"(ssh://)?([\w.+][\w.+-]*@)?[\w.\[:%][\w.:%\]-]*", re.ASCII)
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
    """`host` is what ssh takes: HOST of ~/.ssh/config, USER@HOST, or ssh://USER@HOST:PORT."""

    # TMPDIR is for a device whose /tmp is small, or runs no programs.
    folder = '"${TMPDIR:-/tmp}/mnv2-XXXXXX"'

    def __init__(self, host: str) -> None:
        if not _DESTINATION.fullmatch(host):
            raise UserError(
                f"'{host}' is no host for ssh; give --via ssh:HOST, ssh:USER@HOST or "
                "ssh://USER@HOST:PORT"
            )
        self.host = host
        self.name = host if host.startswith("ssh://") else f"ssh:{host}"

    def shell(self, script: str, seconds: float, doing: str) -> Outcome:
        """Run a script there. Raises DeviceError of kind link or timeout."""
        return self._run(script, seconds, doing)

    def push(self, local: Path, remote: str, seconds: float) -> Outcome:
        """Copy a file there."""
        return self._run(f"cat >{remote}", seconds, f"taking {local.name}", local)

    def _run(self, script: str, seconds: float, doing: str, stdin: Path | None = None) -> Outcome:
        command = ["ssh", *_OPTIONS.split(), "--", self.host, quoted_sh(script)]
        done = run_command(command, self.name, seconds, doing, _INSTALL, stdin)
        if done.code == _ITSELF:
            remedy = next(
                (remedy for sign, remedy in _REMEDIES if sign in done.stderr.lower()),
                "this must work without a question: ssh {host} true",
            )
            words = f"ssh failed while {self.name} was {doing}: {done.words}"
            raise DeviceError(Kind.LINK, f"{words}; {remedy.format(host=self.host)}", self.name)
        return done
