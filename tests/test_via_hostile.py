"""A device that lies, floods or drips: one sentence each, in bounded time and memory."""

import time
from pathlib import Path

import numpy as np
import pytest
from program_devices import remote

from mnv2_tvm.devices.board.info import cpuinfo_fields
from mnv2_tvm.devices.open import transport
from mnv2_tvm.devices.program.candidates import read_results
from mnv2_tvm.devices.program.report import Report
from mnv2_tvm.devices.program.ssh import Ssh
from mnv2_tvm.devices.program.told import read_told
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.peak import above_peak
from mnv2_tvm.records.machine import least_us
from mnv2_tvm.target import Target

HUGE = "1" + 400 * "0"
DEEP = 100_000 * "["
BAD_NUMBERS = ["-1", "0", "NaN", "Infinity", "-Infinity", HUGE, '"3"', "true", "{}", DEEP]


def write_ssh(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `ssh` of which the script is all there is."""
    (folder / "ssh").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "ssh").chmod(0o700)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("exec yes", Kind.ERROR),
        ("exec yes >&2", Kind.ERROR),
        ("while echo y; do sleep 0.1; done", Kind.TIMEOUT),
        ("exec >&- 2>&-; exec sleep 60", Kind.TIMEOUT),
    ],
    ids=["floods", "floods stderr", "drips", "never ends"],
)
def test_a_connection_without_an_end(
    script: str, kind: Kind, here: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ssh(script, tmp_path, monkeypatch)
    monkeypatch.setattr(
        "mnv2_tvm.devices.program.remote._SHELL_S", 1.0 if kind is Kind.TIMEOUT else 60.0
    )
    start = time.monotonic()
    with (
        pytest.raises(DeviceError, match=r"ssh:board .* while telling about itself") as caught,
        remote("ssh:board", here),
    ):
        pass
    assert caught.value.kind is kind
    assert time.monotonic() - start < 10


def test_a_shared_connection_may_outlive_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ControlPersist ssh leaves a process behind that holds its stderr."""
    write_ssh("sleep 30 & echo done; exit 0", tmp_path, monkeypatch)
    start = time.monotonic()
    assert Ssh("board").shell("true", 20, "waiting").stdout == "done\n"
    assert time.monotonic() - start < 10


def test_what_it_says_cannot_steer_a_terminal(
    here: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ssh(r"printf '\033]52;c;aGk=\007\033[2J gone\n' >&2; exit 1", tmp_path, monkeypatch)
    with (
        pytest.raises(DeviceError, match="gone") as caught,
        remote("ssh:board", here),
    ):
        pass
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("line", ["a" + 10**6 * " " + "!", 10**6 * "a ", 10**6 * ":"])
def test_cpuinfo_is_read_in_one_look(line: str) -> None:
    """A regular expression took minutes for 100 kB of it."""
    start = time.monotonic()
    cpuinfo_fields(f"model : x\n{line}\nflags : fma\n")
    read_told(f"=== cpuinfo\n{line}\n=== {line}\n", Target.load("rasp4").host)
    assert time.monotonic() - start < 5


def test_what_it_tells_is_possible_or_left_out() -> None:
    text = f"=== machine\naarch64\x1b[2J\n=== cores\n{5000 * '9'}\n=== clock\n-{HUGE}\n"
    text += "=== temperature\n٣٤\n=== product\n\x1b]0;mine\x07Phone\n"
    text += "=== cpuinfo\nFeatures : fp \x1b[31m asimd [/bold]\n"
    told = read_told(text, Target.load("rasp4").host)
    assert told["cores"] is told["clock_mhz"] is told["temperature_c"] is None
    assert str(told["machine"]).isprintable() and str(told["cpu"]).isprintable()
    assert told["features"] == ["asimd", "fp"]


def test_a_time_of_a_candidate_that_cannot_be() -> None:
    """`null` is what the program prints for an error that is no number: wrong, and not timed."""
    good = '{"candidate": 1, "relative_error": 1e-06, "median_us": 3}'
    for value in (*BAD_NUMBERS, "null"):
        bad = f'{{"candidate": 0, "relative_error": 0, "median_us": {value}}}'
        found = read_results(f"{bad}\n{good}", 2)
        assert found.pop(1) == {"relative_error": 1e-6, "median_us": 3}, value[:20]
        assert found == ({0: {"relative_error": 0}} if value == "null" else {}), value[:20]


def test_a_line_of_a_candidate_that_means_nothing() -> None:
    lines = [
        *(f'{{"candidate": 0, "signal": {value}}}' for value in (*BAD_NUMBERS, "65", "1.5")),
        *(f'{{"candidate": {value}, "signal": 9}}' for value in (*BAD_NUMBERS[2:], "-1", "7")),
        '{"candidate": 0}',
        '{"candidate": 0, "median_us": 3}',
        '{"candidate": 0, "relative_error": -1, "median_us": 3}',
        '{"candidate": 0, "signal": 9, "note": "x"}',
        '{"candidate": 0, "relative_error": 0, "median_us": 1e-9}',
    ]
    for line in lines:
        assert read_results(line, 5, least_us=1e-3) == {}, line[:80]


def test_wrong_numbers_have_no_time() -> None:
    line = '{"candidate": 0, "relative_error": 0.5, "median_us": 3}'
    assert read_results(line, 1) == {0: {"relative_error": 0.5}}
    assert read_results('{"candidate": 0, "relative_error": null}', 1) == {
        0: {"relative_error": float("inf")}
    }


def test_no_machine_is_as_fast() -> None:
    """The bound is below what the fastest CPU takes, with room to spare, and above nonsense."""
    target = Target.load("x86-avx512")
    layer = Layer.parse("f32-pwconv-14x14x384-64-linear")
    peak_us = layer.flops / (2 * 2 * 16 * 6e3)  # at 6 GHz
    assert 1e-3 * peak_us < least_us(layer.flops, target) < peak_us / 10
    assert above_peak(101, 100) and not above_peak(99, 100)


def report(**changed: str) -> str:
    """What the program prints, with some of the values replaced by JSON of any kind."""
    values = {"program": '"x"', "threads": "1", "peak_rss_bytes": "5e6", "rss_growth_bytes": "4e6"}
    values |= {"output": '"3f8000007fc00000"', "peak_gflop_per_s": "50", "times_ms": "[1, 2]"}
    values |= {"layers_us": "[1, 0, 2]"} | changed
    return "{" + ", ".join(f'"{key}": {value}' for key, value in values.items()) + "}"


@pytest.mark.parametrize("key", ["threads", "peak_gflop_per_s", "times_ms", "output"])
def test_a_report_with_a_value_that_cannot_be(key: str, subtests: pytest.Subtests) -> None:
    good = Report.read(report(), "board", 2, 2, 3)
    assert good.times_ms == [1, 2] and good.layers_us == [1, 0, 2]
    assert good.values()[0] == 1 and np.isnan(good.values()[1])
    for value in (*BAD_NUMBERS, '"3f8000007fc0000g"', '"3f8"', "[]"):
        text = report(**{key: f"[1, {value}]" if key == "times_ms" else value})
        with subtests.test(value[:20]):
            with pytest.raises(DeviceError, match=r"^board ") as caught:
                Report.read(text, "board", 2, 2, 3)
            assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_addresses_as_people_write_them() -> None:
    for text, host, port in (
        ("me@board:2222", "me@board", "2222"),
        ("ssh://me@board:2222", "me@board", "2222"),
        ("ssh://board/", "board", None),
        ("[::1]:2222", "::1", "2222"),
        ("me@[fe80::1%eth0]:22", "me@fe80::1%eth0", "22"),
        ("ssh://[::1]", "::1", None),
        ("::1", "::1", None),
        ("fe80::1%eth0", "fe80::1%eth0", None),
    ):
        way = transport(text if text.startswith("ssh://") else f"ssh:{text}")
        assert isinstance(way, Ssh), text
        assert (way.host, way._port) == (host, ["-p", port] if port else []), text


def test_addresses_that_are_none(subtests: pytest.Subtests) -> None:
    for text in (
        *("board:0", "board:65536", f"board:{5000 * '1'}", "board:", "board:\uff12\uff12"),
        *("a:b", "x:1:2", "[::1", "[board]:22", "::1:99999", "[-oX]:22", "me@[::1%$(id)]"),
        *("[::1]x", "a\x1b[2J", "board:-22", "[fe80::1% -oX]:22", 300 * "a", 10**5 * ":"),
        *("me@@board", "board/../x"),
    ):
        with subtests.test(text[:20]):
            with pytest.raises(UserError, match="ssh") as caught:
                Ssh(text)
            assert str(caught.value).isprintable() and len(str(caught.value)) < 400
