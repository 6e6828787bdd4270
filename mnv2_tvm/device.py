"""`python -m mnv2_tvm.device VERB`: boards to measure on, reached through TVM's RPC tracker."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mnv2_tvm import cli
from mnv2_tvm.devices.emulate import board as emulation
from mnv2_tvm.devices.rpc.kit import write_kit
from mnv2_tvm.devices.rpc.listing import board_table, list_boards
from mnv2_tvm.devices.rpc.tracker import LOOPBACK, PORT, parse_address, run_tracker
from mnv2_tvm.errors import UserError

_Tracker = Annotated[
    str, typer.Option("--tracker", help="HOST:PORT of the tracker; [::1]:9190 for IPv6.")
]
_HERE = f"{LOOPBACK}:{PORT}"


def main() -> None:
    """Boards to measure on: a tracker, who is there, the kit for a board, emulated boards.

    TVM's RPC has no authentication, and lets either side run code on the other. What a board asks
    of this host is refused here, yet use RPC only with boards and networks that you trust: ssh and
    adb (--on of tune, bench and run) need nothing on the device and give it nothing here.
    """


def tracker(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = LOOPBACK,
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.")] = PORT,
) -> None:
    """Run TVM's tracker: boards register there, and tune and bench ask it for them."""
    run_tracker(host, port)


def list_(tracker: _Tracker = _HERE) -> None:
    """Show who is there, free or busy, with versions, cores, clock and temperature."""
    boards = list_boards(parse_address(tracker))
    if not boards:
        raise UserError(
            f"no board is registered at {tracker}; set one up with python -m mnv2_tvm.device kit "
            "--target NAME -o kit/, or emulate one with python -m mnv2_tvm.device emulate"
        )
    cli.console().print(board_table(boards))


def kit(
    target: cli.Target,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
) -> None:
    """Write the files to copy to a board: its server and the script that installs it."""
    folder = write_kit(cli.load_target(target), output)
    print(f"wrote {folder}: copy it to the board and read {folder / 'README.txt'}")


def emulate(
    target: cli.Target,
    tracker: _Tracker = _HERE,
    count: Annotated[int, typer.Option(help="How many boards.", min=1)] = 1,
    qemu: Annotated[
        bool, typer.Option("--qemu", help="Under qemu-user on a 64-bit ARM host, too.")
    ] = False,
    library: Annotated[
        Path | None, typer.Option(help="Microcontroller: run this build, not one made for it.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Microcontroller: as for build; random without.")
    ] = None,
    state: cli.State = None,
    width: Annotated[float, typer.Option(help="Microcontroller: of the network.")] = 0.35,
    resolution: Annotated[int, typer.Option(help="Microcontroller: of the network.")] = 96,
    classes: Annotated[int, typer.Option(help="Microcontroller: of the network.")] = 1000,
) -> None:
    """Run boards on this host: 64-bit ARM under qemu-user, or this host's own architecture.

    A microcontroller has no server: one run of a network, checked and counted, and done.
    """
    machine = cli.load_target(target)
    if machine.microcontroller is None:
        if library or weights or state:
            raise UserError(
                f"--library, --weights and --state are for microcontrollers, not for {target}"
            )
        emulation.emulate(machine, parse_address(tracker), count, qemu)
        return
    # These import the compiler, which takes seconds.
    from mnv2_tvm.devices.emulate.bare_metal import emulate_once, run_table
    from mnv2_tvm.model import Architecture

    architecture = Architecture(width, resolution, classes)
    run = emulate_once(machine, architecture, library, weights, state)
    cli.tell(run.notes)
    cli.console().print(run_table(run))


VERBS: dict[str, Callable[..., Any]] = {
    "tracker": tracker,
    "list": list_,
    "kit": kit,
    "emulate": emulate,
}

if __name__ == "__main__":
    cli.run_verb(main, verbs=VERBS)
