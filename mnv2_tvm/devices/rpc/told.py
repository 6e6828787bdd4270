"""What a board over RPC tells of itself, checked before anything is made of it."""

from typing import Annotated, Any, TypedDict

from msgspec import Meta

from mnv2_tvm.errors import UserError
from mnv2_tvm.untrusted import decode_json, printable

BOARD_INFO = "mnv2.board_info"  # the remote function of mnv2_tvm/devices/board
NOT_OURS = "its RPC server is not that of a kit of mnv2_tvm"

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
