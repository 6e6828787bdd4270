"""What carries files and commands to a device: ssh and adb."""

import shlex
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from mnv2_tvm.commands import MOST_BYTES, Outcome


class Transport(Protocol):
    """A way to one device. `shell` and `push` raise DeviceError where the way itself fails.

    They take the deadline in seconds and a phrase for what is going on, for the error.
    """

    name: str  # as a user gives it
    folder: str  # pattern of `mktemp -d` for a private folder; a shell expands it

    def connected(self) -> AbstractContextManager[None]:
        """For all commands of one run: what they share is kept until the block ends."""

    def shell(
        self, script: str, seconds: float, doing: str, most_bytes: int = MOST_BYTES
    ) -> Outcome:
        """Run a script of POSIX `sh` there, which says at most so many bytes."""

    def push(self, local: Path, remote: str, seconds: float) -> Outcome:
        """Copy a file there."""


def quoted_sh(script: str) -> str:
    """A command that means the same to every login shell, also to those that are not POSIX's.

    `exit` keeps a shell from giving its place to the script's last command: of a process that dies
    by a signal ssh tells only that the connection is over.
    """
    return f"sh -c {shlex.quote(script + chr(10) + 'exit $?')}"
