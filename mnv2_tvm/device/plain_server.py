"""Boards whose RPC server is TVM's own: the Python server, `tvm_rpc` in C++, the Android app.

They have no function of ours, so such a board tells nothing of itself: no versions to compare, no
clock, no temperature. `--plain-server` accepts them.
"""

from typing import Annotated, Any, TypedDict

from msgspec import Meta

from mnv2_tvm.errors import UserError
from mnv2_tvm.untrusted import decode_json, printable

BOARD_INFO = "mnv2.board_info"  # the remote function of mnv2_tvm/device/board
OPTION = "--plain-server"

_Count = Annotated[int, Meta(ge=1, le=2**16)]
_Told = TypedDict(
    "_Told",
    {
        "apache-tvm": str | None,
        "apache-tvm-ffi": str | None,
        "python": str | None,
        "name": str,
        "machine": str | None,
        "cpu": str,
        "features": Annotated[list[str], Meta(max_length=1000)],
        "cores": _Count | None,
        "clock_mhz": Annotated[float, Meta(ge=0, le=1e6)] | None,
        "temperature_c": Annotated[float, Meta(ge=-300, le=1e4)] | None,
        "emulated": bool,
    },
)

# What a plain board tells, in the form of `board/info.py`.
NOTHING_TOLD: dict[str, Any] = {
    "apache-tvm": None,
    "apache-tvm-ffi": None,
    "python": None,
    "name": "",
    "machine": None,
    "cpu": "unknown (TVM's own RPC server)",
    "features": [],
    "cores": None,
    "clock_mhz": None,
    "temperature_c": None,
    "emulated": False,
}

WARNING = (
    "the board runs TVM's own RPC server: its TVM version is not compared with this host's, and "
    "its CPU, clock and temperature are unknown"
)


def told_by(remote: Any) -> dict[str, Any] | None:
    """What the board of a TVM session tells of itself; None where its server is not ours.

    Raises UserError where it tells something else: it may be anybody's.
    """
    try:
        function = remote.get_function(BOARD_INFO)
    except AttributeError:
        return None
    return checked(function())


def checked(text: object) -> dict[str, Any]:
    """What a board tells, as JSON: of the right types, and harmless to print.

    Raises UserError for anything else.
    """
    what = "what it tells of itself"
    if not isinstance(text, str):
        raise UserError(f"{what}: no text")
    told = decode_json(text, _Told, what)
    return {key: _harmless(value) for key, value in told.items()}


def _harmless(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    return [printable(one) for one in value] if isinstance(value, list) else value


def refusal(key: str, board: str) -> UserError:
    """Why a plain board was not asked for."""
    return UserError(
        f"the board {key} at {board} runs an RPC server that is not ours, so its versions cannot "
        f"be compared; if it is TVM's own of the same version, give {OPTION}"
    )


def check_option(tracker: object | None, plain_server: bool) -> None:
    """Raises UserError for --plain-server on this host."""
    if plain_server and tracker is None:
        raise UserError(f"{OPTION} is for boards: it goes with --tracker HOST:PORT")
