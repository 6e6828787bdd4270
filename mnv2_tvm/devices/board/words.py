"""Addresses as people write them, and the lines that a board prints."""

import ipaddress
import re
import signal
import time
from contextlib import suppress

_BRACKETS = re.compile(r"\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\](?::([0-9]{1,5}))?")
_NAME = re.compile(r"([\w.-]+)(?::([0-9]{1,5}))?")


def say(event: str) -> None:
    """Print one line with the time."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {event}", flush=True)


def parse_address(text: str, port: "int | None" = None) -> "tuple[str, int]":
    """Host and port of HOST:PORT, [IPV6]:PORT, or of either alone where there is a usual `port`.

    Raises ValueError for anything else.
    """
    found = _BRACKETS.fullmatch(text) or _NAME.fullmatch(text)
    host, digits = found.groups() if found else (text, None)
    if not found or found.re is _BRACKETS:
        ipaddress.IPv6Address(host)  # raises ValueError
    number = port if digits is None else int(digits)
    if number is None or not 0 < number < 65536:
        raise ValueError(text)
    return host, number


def address_text(host: str, port: int) -> str:
    """HOST:PORT, with the brackets of IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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
