"""What carries files and commands to a device: `--via ssh:HOST`, `--via adb` or `adb:SERIAL`."""

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mnv2_tvm.device.failure import DeviceError, Kind


@dataclass(frozen=True)
class Outcome:
    """How a command on the device ended."""

    code: int  # 128 and a signal's number where that ended it
    stdout: str
    stderr: str

    @property
    def words(self) -> str:
        """The last line it said."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return lines[-1].strip() if lines else "it says nothing"


class Transport(Protocol):
    """A way to one device. Both methods raise DeviceError where the way itself fails.

    They take the deadline in seconds and a phrase for what is going on, for the error.
    """

    name: str  # as a user gives it
    folder: str  # pattern of `mktemp -d` for a private folder; a shell expands it

    def shell(self, script: str, seconds: float, doing: str) -> Outcome:
        """Run a script of POSIX `sh` there."""

    def push(self, local: Path, remote: str, seconds: float) -> Outcome:
        """Copy a file there."""


def quoted_sh(script: str) -> str:
    """A command that means the same to every login shell, also to those that are not POSIX's.

    `exit` keeps a shell from giving its place to the script's last command: of a process that dies
    by a signal ssh tells only that the connection is over.
    """
    return f"sh -c {shlex.quote(script + chr(10) + 'exit $?')}"


def run_command(
    command: list[str], name: str, seconds: float, doing: str, remedy: str, stdin: Path | None
) -> Outcome:
    """Run ssh or adb with a deadline. Raises DeviceError where it is missing, and when it is late.

    `remedy` is what installs it.
    """
    try:
        with (stdin or Path("/dev/null")).open("rb") as source:
            done = subprocess.run(
                command, stdin=source, capture_output=True, check=False, timeout=seconds
            )
    except FileNotFoundError as error:
        raise DeviceError(Kind.LINK, f"{command[0]} is not installed here; {remedy}") from error
    except subprocess.TimeoutExpired as error:
        words = f"{name} did not answer within {seconds:.0f} s while {doing}"
        raise DeviceError(Kind.TIMEOUT, words, name) from error
    texts = (part.decode(errors="replace") for part in (done.stdout, done.stderr))
    return Outcome(done.returncode, *texts)
