"""`--on`: the ways to a device that measures."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from mnv2_tvm.devices.here import Here
from mnv2_tvm.devices.several import Several
from mnv2_tvm.errors import UserError
from mnv2_tvm.measure.device import Device
from mnv2_tvm.untrusted import printable

if TYPE_CHECKING:  # TVM comes with these, and `run` does without
    from mnv2_tvm.devices.program.transport import Transport
    from mnv2_tvm.target import Target

HERE = "here"
HELP = "here, tracker[:HOST[:PORT]], ssh:HOST or adb[:SERIAL]"

Say = Callable[[str], None]


def check_ways(ways: Sequence[str], runner: str | None, named: bool) -> None:
    """Raises UserError, before any work, for ways that do not exist or do not go together.

    `named`: whether the target was named, and not this machine's own taken.
    """
    for way in ways:
        if way != HERE and _tracker(way) is None:
            transport(way)
    if len(set(ways)) < len(ways):
        raise UserError("--on names a device twice; leave one out")
    programs = [way for way in ways if way != HERE and _tracker(way) is None]
    if runner and not programs:
        raise UserError("--runner goes with --on ssh:HOST or adb: it stands before a program there")
    try:
        shlex.split(runner or "")
    except ValueError as error:
        raise UserError(f"--runner '{runner}': {error}") from error
    elsewhere = [way for way in ways if way != HERE]
    if elsewhere and not named:
        raise UserError(
            f"--on {printable(elsewhere[0])} is another machine: name what it is with --target"
        )


@contextmanager
def open_device(
    way: str,
    key: str,
    target: Callable[[], "Target"],
    *,
    runner: str | None = None,
    cpus: Sequence[int] | None = None,
    say: Say = lambda text: None,
) -> Iterator[Device]:
    """The device that `way` leads to, for the block.

    `key` is the name of the target that the device is, and `target` gives all of it, where it is
    wanted. `say` is told of boards that come and go. Raises UserError for a way that does not
    exist, and where the device cannot be reached.
    """
    if way == HERE:
        with Here(target, cpus) as here:
            yield here
        return
    if tracker := _tracker(way):
        from mnv2_tvm.devices.rpc.boards import Boards
        from mnv2_tvm.devices.rpc.session import Address

        with Boards(Address(tracker, key), say) as boards:
            yield boards
        return
    from mnv2_tvm.devices.program.device import ProgramDevice
    from mnv2_tvm.devices.program.remote import Remote

    with ProgramDevice(Remote(transport(way), target(), runner), say) as device:
        yield device


@contextmanager
def open_devices(
    ways: Sequence[str],
    key: str,
    target: Callable[[], "Target"],
    runner: str | None = None,
    say: Say = lambda text: None,
) -> Iterator[Device]:
    """All of `ways` as one device, which a search measures on.

    Raises UserError for ways whose devices take different files, as programs and libraries are.
    """
    if len({way == HERE or _tracker(way) is not None for way in ways}) > 1:
        raise UserError(f"{', '.join(ways)} are different ways; search on the devices of one")
    with ExitStack() as stack:
        devices = [
            stack.enter_context(open_device(way, key, target, runner=runner, say=say))
            for way in ways
        ]
        yield devices[0] if len(devices) == 1 else Several(devices, say)


def _tracker(way: str) -> tuple[str, int] | None:
    """Host and port of `tracker[:HOST[:PORT]]`; None for another way."""
    kind, colon, rest = way.partition(":")
    if kind != "tracker" or bool(colon) != bool(rest):
        return None
    from mnv2_tvm.devices.rpc.tracker import LOOPBACK, PORT, parse_address

    return parse_address(rest, "--on tracker:") if rest else (LOOPBACK, PORT)


def transport(way: str) -> "Transport":
    """What carries programs to the device of `ssh:HOST` or `adb[:SERIAL]`.

    Raises UserError for another way.
    """
    from mnv2_tvm.devices.program.adb import Adb
    from mnv2_tvm.devices.program.ssh import Ssh

    if way.startswith("ssh://"):
        return Ssh(way)
    kind, colon, rest = way.partition(":")
    if kind == "ssh" and colon:
        return Ssh(rest)
    if kind == "adb" and bool(colon) == bool(rest):
        return Adb(rest or None)
    raise UserError(f"--on takes {HELP}, not '{printable(way)}'")
