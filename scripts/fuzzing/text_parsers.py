"""Parsers of text: the command line's words, and what devices and programs answer."""

import io
import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from inputs import Make, as_said, as_text, between, from_bytes, json_like, lines_of
from sandbox import Parse, Parser

from mnv2_tvm.cli import cpu_list, plain_console
from mnv2_tvm.commands import Outcome
from mnv2_tvm.deploy.memory_fit import byte_count
from mnv2_tvm.devices.emulate.bare_metal import _VALUES
from mnv2_tvm.devices.emulate.bare_metal import read_told as read_emulated
from mnv2_tvm.devices.open import transport
from mnv2_tvm.devices.program.adb import Adb
from mnv2_tvm.devices.program.candidates import read_results
from mnv2_tvm.devices.program.remote import Remote
from mnv2_tvm.devices.program.report import Report
from mnv2_tvm.devices.program.told import read_told
from mnv2_tvm.devices.rpc.listing import Board, board_table
from mnv2_tvm.devices.rpc.session import Address, _accepted
from mnv2_tvm.devices.rpc.told import told_by
from mnv2_tvm.devices.rpc.tracker import parse_address
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target
from mnv2_tvm.versions import versions

_LAYERS = [
    b"f32-dwconv-3x3s2-112x112x96",
    b"f32-pwconv-7x7x576-160-linear",
    b"f32-conv-3x3s2-224x224x3-32",
    b"f32-avgpool-7x7x1280",
    b"f32-irb-3x3s1-2x14x14x64-384-64-residual",
]
_CPUINFO = (
    b"processor\t: 0\nmodel name\t: ARMv8 Processor rev 3 (v8l)\nBogoMIPS\t: 108.00\n"
    b"Features\t: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva crc32 fp asimd\n"
    b"Hardware\t: BCM2711\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n"
)
_TOLD = (
    b"=== machine\naarch64\n\n=== cores\n4\n\n=== product\n\n=== cpuinfo\n" + _CPUINFO + b"\n"
    b"=== model\nRaspberry Pi 4 Model B Rev 1.4\0\n=== clock\n1500000\n\n=== temperature\n48212\n"
)
_INFO: dict[str, Any] = {
    **dict.fromkeys(("python", "machine"), "3.11"),
    **{"name": "pi", "cpu": "ARM Cortex-A72", "features": ["fp", "asimd"]},
    **{"cores": 4, "clock_mhz": 1500.0, "temperature_c": 48.2, "emulated": False},
    **{name: versions()[name] for name in ("apache-tvm", "apache-tvm-ffi")},
}
_REPORT = {
    **{"program": "mnv2_load", "threads": 2, "peak_gflop_per_s": 11.5, "peak_rss_bytes": 5242880},
    **{"rss_growth_bytes": 1048576, "times_ms": [5.1, 5.2, 5.0], "output": "3f8000007fc00000"},
    "layers_us": [3.5, 3.6, 80.0, 81],
}
_CANDIDATES = [
    {"candidate": 0, "median_us": 12.5, "relative_error": 1e-7},
    {"candidate": 1, "relative_error": 0.5},
    {"candidate": 2, "signal": 11},
]
_DEVICES = [
    b"List of devices attached\nPHONE1\tdevice\n\n",
    b"* daemon not running; starting now at tcp:5037\n* daemon started successfully\n"
    b"List of devices attached\n192.168.1.7:5555\toffline\nPHONE1\tunauthorized\n"
    b"0123\tno permissions (user in plugdev group; are your udev rules wrong?)\n",
]
_QEMU = b"".join(b"%s %08x\n" % (name.encode(), 1000 + place) for place, name in enumerate(_VALUES))


def _words(name: str, parse: Callable[[str], object], *wholes: bytes) -> Parser:
    """A parser of a word of the command line."""
    return Parser(name, from_bytes(*wholes), lambda _: lambda data: parse(as_text(data)), wholes)


def _answer(name: str, make: Make, parse: Callable[[str], object], *sound: bytes) -> Parser:
    """A parser of what another program said."""
    return Parser(name, make, lambda _: lambda data: parse(as_said(data)), sound)


def _via(text: str) -> None:
    way: Any = transport(text)
    # It stands in the command of ssh or adb: it must be no option, and one line without a control.
    word = str(getattr(way, "host", None) or getattr(way, "_serial", None) or "x")
    assert not word.startswith("-") and word.isprintable(), f"{word!r} passed"


def _results(text: str) -> None:
    for number, result in read_results(text, 3).items():
        assert number in range(3)
        if result.get("relative_error") == math.inf:  # not finite there: wrong, and so not timed
            assert result == {"relative_error": math.inf}, f"{result} passed"
        else:
            _check_numbers(result)


def _report(text: str) -> None:
    report = Report.read(text, "ssh:pi", 2, 3, 4)
    assert len(report.values()) == 2
    # The memory may become less.
    _check_numbers([report.threads, report.times_ms, report.layers_us, report.peak_gflop_per_s])


def _check_numbers(value: Any) -> None:
    """No number that a device told is negative or not finite: a time must never win so."""
    if is_dataclass(value):
        value = asdict(value)  # type: ignore[arg-type]
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            _check_numbers(item)
    elif isinstance(value, int | float):
        assert value >= 0 and math.isfinite(value), f"{value} passed"


def _board_info(text: str) -> None:
    """What `device list` prints of a board, and whether a session accepts it."""
    remote = SimpleNamespace(get_function=lambda name: lambda: text)
    told = told_by(remote)
    assert told is not None
    board = Board("rasp4", "10.0.0.7", 9091, "free", told)
    printed = io.StringIO()
    plain_console(file=printed, width=200).print(board_table([board]))
    assert "\x1b" not in printed.getvalue(), "ESC reaches the terminal"
    _accepted(Address(("10.0.0.1", 9190), "rasp4"), "10.0.0.7:9091", told)


def _adb(text: str) -> None:
    for serial in (None, "PHONE1"):
        adb = Adb(serial)
        adb._adb = lambda *_: Outcome(0, text, "")  # type: ignore[method-assign]
        adb._choose()


class _Answering:
    """A way to a device that says the input to whatever it is asked."""

    name, folder = "ssh:pi", "/tmp/mnv2-XXXXXX"

    def __init__(self, said: list[bytes]) -> None:
        self._said = said

    def connected(self) -> AbstractContextManager[None]:
        return nullcontext()

    def shell(self, script: str, *_: object) -> Outcome:
        number = 0 if "=== machine" in script else 1 if "mktemp" in script else 2
        said = self._said[number]
        code = 0 if len(said) % 7 else 139  # now and then one that says failure
        return Outcome(code, as_said(said), as_said(said))

    def push(self, *_: object) -> Outcome:
        return self.shell("push")


def _device(folder: Path) -> Parse:
    target, program = Target.load("rasp4"), folder / "mnv2_load"
    program.write_bytes(b"\x7fELF")

    def parse(data: bytes) -> None:
        way: Any = _Answering([*data.split(b"\n=====\n"), b"", b""][:3])
        with Remote(way, target) as device:
            device.run(device.upload(program), ["--runs", "1"], 1.0)

    return parse


_LINES = [json.dumps(line).encode() for line in _CANDIDATES]
_TABLES = [json.dumps(table).encode() for table in (_REPORT, _INFO)]
_FOLDER = b"Welcome!\n/tmp/mnv2-aB3xYz\n"

PARSERS = [
    _words("layer names", Layer.parse, *_LAYERS),
    _words("--on", _via, b"ssh:pi", b"ssh:me@board.local", b"ssh://me@10.0.0.7:22", b"adb:PHONE1"),
    _words("HOST:PORT", parse_address, b"127.0.0.1:9190", b"board.local", b"10.0.0.7:1"),
    _words("--cpus", cpu_list, b"0"),
    _words("--flash", byte_count, b"320K", b"2M", b"1048576"),
    _answer(
        "device, told",
        from_bytes(_TOLD),
        lambda text: read_told(text, Target.load("rasp4").host),
        _TOLD,
    ),
    Parser("device, shell", from_bytes(b"\n=====\n".join((_TOLD, _FOLDER, b"4\n"))), _device),
    _answer("mnv2_load", between(b"hi\n", json_like(_REPORT)), _report, _TABLES[0]),
    _answer("mnv2_candidates", lines_of(json_like(*_CANDIDATES), *_LINES), _results, *_LINES),
    _answer("board info", json_like(_INFO), _board_info, _TABLES[1]),
    _answer("adb devices", from_bytes(*_DEVICES), _adb, _DEVICES[0]),
    _answer(
        "qemu, told",
        from_bytes(_QEMU, b"qemu-system-arm: warning: x\n" + _QEMU),
        lambda text: read_emulated(text, 1),
        _QEMU,
    ),
]
