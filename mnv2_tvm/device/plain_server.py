"""Boards whose RPC server is TVM's own: the Python server, `tvm_rpc` in C++, the Android app.

They have no function of ours, so such a board tells nothing of itself: no versions to compare, no
clock, no temperature. `--plain-server` accepts them.
"""

import json
from typing import Any

from mnv2_tvm.errors import UserError

BOARD_INFO = "mnv2.board_info"  # the remote function of mnv2_tvm/device/board
OPTION = "--plain-server"

# What a plain board tells, in the form of `board/info.py`.
NOTHING_TOLD: dict[str, Any] = {
    "apache-tvm": None,
    "apache-tvm-ffi": None,
    "python": None,
    "name": "",
    "alias": None,
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
    """What the board of a TVM session tells of itself; None where its server is not ours."""
    try:
        function = remote.get_function(BOARD_INFO)
    except AttributeError:
        return None
    told: dict[str, Any] = json.loads(function())
    return told


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
