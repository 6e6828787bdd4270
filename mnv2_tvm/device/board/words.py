"""Lines that a board prints."""

import ipaddress
import signal
import time
from contextlib import suppress


def say(event: str) -> None:
    """Print one line with the time."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {event}", flush=True)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def open_port_warning(what: str, host: str) -> str:
    """Say what it means that `what` listens on `host`."""
    return (
        f"warning: the {what} listens on {host}. TVM's RPC has no authentication at all: whoever "
        "reaches this port runs any code as this user. Use it only in a network that you trust; "
        "over any other, bind 127.0.0.1 and tunnel with ssh."
    )


def ending(code: int) -> str:
    """How a process with this exit code ended."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
