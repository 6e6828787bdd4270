"""One device for the time of a measurement: a private folder there, and programs in it."""

import shlex
import signal
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from mnv2_tvm.commands import MOST_BYTES, Outcome
from mnv2_tvm.deploy.link import require_programs
from mnv2_tvm.devices.program.folder import keep_script, make_script, read_made
from mnv2_tvm.devices.program.told import SCRIPT, read_told
from mnv2_tvm.devices.program.transport import Transport
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.measure.patience import patience_s
from mnv2_tvm.target import Target

_SHELL_S = 30.0  # for a small command: a connection of ssh takes at most 10 s of it
_GRACE_S = 15.0  # a program ends itself at its deadline; this host waits so much longer
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127  # exit codes of the shell
_FROM_SIGNAL = 128


class Remote:
    """A device that runs programs of `target`; `with` makes a folder there and removes it.

    `runner` comes before every program, split as a shell would: `taskset f0`, or `qemu-aarch64`
    for a machine of another kind, whose times are then marked. Entering raises DeviceError where
    there is no way to the device, or it cannot run the target's programs.
    """

    def __init__(self, via: Transport, target: Target, runner: str | None = None) -> None:
        require_programs(target)
        self.name, self.target, self.info = via.name, target, dict[str, Any]()
        self._via, self._folder = via, ""
        self._leaving = ExitStack()
        try:
            self._runner = shlex.split(runner or "")
        except ValueError as error:
            raise UserError(f"--runner '{runner}': {error}") from error

    def __enter__(self) -> "Remote":
        with ExitStack() as stack:
            stack.enter_context(self._via.connected())
            self.info = self.ask()
            self._check()
            self._make_folder()
            stack.callback(self._remove_folder)
            self._leaving = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._leaving.close()

    def reenter(self) -> None:
        """Make a new folder on a device that was lost, and may have started anew since."""
        self._remove_folder()
        self._make_folder()

    def _make_folder(self) -> None:
        done = self._shell(make_script(self._via.folder), "making a folder")
        folder, left = read_made(done.stdout)
        if done.code or not folder:
            raise self._error(Kind.UPLOAD, f"cannot make a folder: {done.words}")
        self._folder = folder
        if left:
            self._remove(left, "removing what killed processes left")

    def _remove_folder(self) -> None:
        self._remove([self._folder], "removing the folder")

    def _remove(self, folders: Sequence[str], doing: str) -> None:
        with suppress(DeviceError):  # what went wrong before says more, and the next run removes it
            self._shell(f"rm -rf {shlex.join(folders)}", doing)

    def ask(self) -> dict[str, Any]:
        """What it tells of itself now: machine, CPU, features, clock, temperature, `emulated`."""
        done = self._shell(SCRIPT, "telling about itself")
        told = read_told(done.stdout, self.target.host)
        if not told["machine"]:
            raise self._error(Kind.REFUSED, f"does not tell what machine it is: {done.words}")
        emulator = bool(self._runner) and Path(self._runner[0]).name.startswith("qemu")
        told["emulated"] = emulator or told["machine"] != self.target.host.machine
        told["via"] = self.name
        if told["emulated"]:  # all else is of the machine that emulates
            told |= {"cpu": shlex.join(self._runner), "features": []}
            told |= {"clock_mhz": None, "temperature_c": None}
        return told

    def _check(self) -> None:
        needs, told = self.target.host, self.info
        if told["machine"] != needs.machine and not self._runner:
            raise self._error(
                Kind.REFUSED,
                f"is {told['machine']}; {self.target.name} is for {needs.machine}. Give the "
                "--target that it is, or an emulator that it has with --runner",
            )
        lacking = [feature for feature in needs.features if feature not in told["features"]]
        if told["features"] and lacking:
            raise self._error(
                Kind.REFUSED, f"lacks {', '.join(lacking)}, which {self.target.name} needs"
            )

    def upload(self, program: Path, name: str = "") -> str:
        """Copy a file there, by default under its own name; its path. Raises DeviceError."""
        remote = f"{self._folder}/{name or program.name}"
        size = program.stat().st_size
        done = self._via.push(program, shlex.quote(remote), patience_s(moved_bytes=size))
        if not done.code:
            words = f"{keep_script(self._folder)}; "
            words += f"chmod 700 {shlex.quote(remote)} && wc -c <{shlex.quote(remote)}"
            done = self._shell(words, f"taking {program.name}")
        if done.code:
            raise self._error(Kind.UPLOAD, f"did not take {program.name}: {done.words}")
        if done.stdout.split()[-1:] != [str(size)]:
            words = f"has {done.words} of the {size} bytes of {program.name}"
            raise self._error(Kind.UPLOAD, words)
        return remote

    def remove(self, remote: str) -> None:
        """Remove a program that `upload` brought there."""
        self._shell(f"rm -f {shlex.quote(remote)}", "removing a program")

    def run(
        self, remote: str, arguments: Sequence[str], seconds: float, most_bytes: int = MOST_BYTES
    ) -> Outcome:
        """Run a program with `--deadline SECONDS`, at which it ends itself.

        Raises DeviceError of kind upload where it cannot be started, crash where a signal ended
        it, timeout where that was its deadline.
        """
        late = max(1, round(seconds))
        command = [*self._runner, remote, "--deadline", str(late), *arguments]
        doing = f"running {Path(remote).name}"
        done = self._via.shell(shlex.join(command), late + _GRACE_S, doing, most_bytes)
        if done.code in (_NOT_EXECUTABLE, _NOT_FOUND):
            remedy = f"start {shlex.join(self._runner)}" if self._runner else "run programs"
            words = f"cannot {remedy} in {self._folder}: {done.words}"
            if not self._runner and "ermission" in done.words:
                words += "; a folder may forbid it (mount option noexec): set TMPDIR there"
            raise self._error(Kind.UPLOAD, words)
        if done.code > _FROM_SIGNAL:
            raise self.ended_by(done.code - _FROM_SIGNAL, f" ({done.words})", f"{late} s")
        return done

    def ended_by(self, number: int, words: str = "", late: str = "its time") -> DeviceError:
        """The error of a program that a signal ended, or of a process of it."""
        if number == signal.SIGALRM:
            return self._error(Kind.TIMEOUT, f"was not done within {late}")
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        why = {
            "SIGILL": f": its CPU lacks an instruction of {self.target.name}, which needs "
            f"{', '.join(self.target.host.features)}; give the --target that it is",
            "SIGKILL": ": it may be short of memory",
        }
        return self._error(Kind.CRASH, f"ended the program with {name}{why.get(name, words)}")

    def _shell(self, script: str, doing: str) -> Outcome:
        return self._via.shell(script, _SHELL_S, doing)

    def _error(self, kind: Kind, what: str) -> DeviceError:
        return DeviceError(kind, f"{self.name} {what}", self.name)
