"""Boards on this host: 64-bit ARM under qemu-user, or this machine's own architecture as it is."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from mnv2_tvm.devices.board.serve import QUICK_IMPORT
from mnv2_tvm.devices.board.words import address_text
from mnv2_tvm.devices.emulate.userland import Userland
from mnv2_tvm.errors import UserError
from mnv2_tvm.host import this_host
from mnv2_tvm.target import Target

_BOARD = Path(__file__).resolve().parents[1]  # the folder that holds `board`
_END_S = 10.0


class LocalBoards:
    """Processes that register with the tracker like `count` boards, from here to `close`.

    They run on this machine as it is where that is one of the target's, unless `qemu` is asked for.
    """

    def __init__(
        self, target: Target, tracker: tuple[str, int], count: int = 1, *, qemu: bool = False
    ) -> None:
        where = address_text(*tracker)
        arguments = ["-m", "board.serve", "--tracker", where, "--key", target.name]
        # The tracker gives out the address from which a board came, which is this host's.
        arguments += ["--address", "127.0.0.1", "--with-parent", str(os.getpid())]
        command, environment = _recipe(target, arguments, qemu)
        self.processes = [
            subprocess.Popen(command, cwd=_BOARD, env=environment, start_new_session=True)
            for _ in range(count)
        ]

    def wait(self) -> None:
        """Wait until the first of them has ended. Raises UserError: none should."""
        while all(process.poll() is None for process in self.processes):
            time.sleep(0.2)
        raise UserError("a board ended; its last lines above say why")

    def close(self) -> None:
        """End all of their processes."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()  # what it forked dies with it
                process.wait()

    def __enter__(self) -> "LocalBoards":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def emulate(target: Target, tracker: tuple[str, int], count: int, qemu: bool = False) -> None:
    """Be `count` boards of the target until SIGTERM or Ctrl-C.

    Raises UserError for a target that can neither run here nor be emulated.
    """

    def stop(number: int, frame: object) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with LocalBoards(target, tracker, count, qemu=qemu) as boards:
            boards.wait()
    finally:
        signal.signal(signal.SIGTERM, before)


def _recipe(target: Target, arguments: list[str], qemu: bool) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of a board."""
    machine = target.host.machine
    if machine == this_host().machine and not qemu:
        lacking = target.missing_here()
        if lacking:
            raise UserError(f"{target.name} cannot run here: this host lacks {', '.join(lacking)}")
        return [sys.executable, *arguments], os.environ | QUICK_IMPORT
    if machine != "aarch64":
        raise UserError(
            f"{target.name} is a target for {machine}; emulation is for 64-bit ARM boards, such "
            "as --target rasp4"
        )
    userland = Userland.ready()
    return userland.command(*arguments, "--emulated"), userland.environment()
