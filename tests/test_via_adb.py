"""Programs over adb: to a simulated phone, which is this machine with a folder of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Built
from fake_adb import write_fake_adb
from program_devices import bench_on, remote

from mnv2_tvm.devices.open import transport
from mnv2_tvm.devices.program.device import ProgramDevice
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.measure.bench import Plan
from mnv2_tvm.measure.bench_result import BenchResult
from mnv2_tvm.numbers import TOLERANCE, relative_error
from mnv2_tvm.target import Target

Plug = Callable[[str], None]


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plug]:
    """Plug in a phone of a mode; whatever happens, nothing stays on it."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    phones = []
    yield lambda mode: phones.append(write_fake_adb(tmp_path, mode))
    assert [list(phone.iterdir()) for phone in phones] == [[]]


def run(tiny: Built, here: Target, way: str = "adb", runner: str | None = None) -> None:
    """Run the library that is built already on the phone, and check its numbers."""
    images = tiny.network.images(0)
    with (
        ProgramDevice(remote(way, here, runner), print) as device,
        device.open(tiny.folder) as network,
    ):
        error = relative_error(network(images), tiny.network.reference(images))
    assert error <= TOLERANCE


def bench(target: str, runner: str | None = None, way: str = "adb") -> BenchResult:
    """Of a library that is built first."""
    return bench_on(way, Target.load(target), Plan(2, 1), runner)


def refused(match: str, kind: Kind, way: str = "adb", target: str = "android") -> None:
    device = remote(way, Target.load(target))
    with pytest.raises(DeviceError, match=match) as caught, device:
        pass
    assert caught.value.kind == kind


def test_bench_on_the_one_phone(here: Target, plug_in: Plug) -> None:
    plug_in("")
    result = bench(here.name, way="adb:PHONE1")
    assert result.relative_error < 1e-4 and not result.emulated
    assert result.host["via"] == "adb:PHONE1"


def test_the_one_phone_needs_no_name(here: Target, plug_in: Plug, tiny: Built) -> None:
    plug_in("")
    run(tiny, here)


def test_the_program_for_android(plug_in: Plug) -> None:
    """Static, so that it runs on an arm64 kernel of any kind, as qemu's is."""
    plug_in("")
    result = bench("android-dotprod", "qemu-aarch64 -cpu cortex-a76")
    assert result.relative_error < 1e-4 and result.emulated


def test_one_of_two_phones(here: Target, plug_in: Plug, tiny: Built) -> None:
    plug_in("two")
    run(tiny, here, way="adb:192.168.1.5:5555")


@pytest.mark.parametrize("mode", ["starts", "other version"])
def test_what_adb_says_of_its_server_is_no_phone(here: Target, plug_in: Plug, mode: str) -> None:
    plug_in(mode)
    with remote("adb", here) as device:
        assert device.info["machine"] == here.host.machine


def test_a_phone_found_over_the_air(here: Target, plug_in: Plug) -> None:
    """Its serial number has a space and brackets."""
    plug_in("air")
    with remote("adb:adb-PHONE1-Xy (2)._adb-tls-connect._tcp", here) as device:
        assert "(2)" in device.name


@pytest.mark.parametrize(
    ("mode", "match"),
    [
        ("unauthorized", "PHONE1 is 'unauthorized'; unlock the phone and allow"),
        ("offline", "PHONE1 is 'offline'; .*adb reconnect offline"),
        ("no permissions", "PHONE1 is 'no permissions .*apt install android-sdk-platform-tools"),
        ("recovery", "PHONE1 is 'recovery'; start Android on it"),
        ("none", "adb sees no device: plug the phone in"),
        ("two", r"adb sees PHONE1 \(device\), 192.168.1.5:5555 .*--on adb:SERIAL"),
    ],
)
def test_a_phone_that_is_not_ready(plug_in: Plug, mode: str, match: str) -> None:
    plug_in(mode)
    refused(match, Kind.LINK)


@pytest.mark.parametrize(
    ("serial", "match"),
    [
        ("PHONE2", r"adb sees no PHONE2, but PHONE1 \(device\); see adb devices"),
        ("10.0.0.2:5555", "adb sees no 10.0.0.2:5555, but .*; adb connect 10.0.0.2:5555"),
    ],
)
def test_another_phone(plug_in: Plug, serial: str, match: str) -> None:
    plug_in("")
    refused(match, Kind.LINK, f"adb:{serial}")


def test_a_phone_of_another_machine(foreign: Target, plug_in: Plug) -> None:
    plug_in("")
    match = rf"adb is \w+; {foreign.name} is for {foreign.host.machine}"
    refused(match, Kind.REFUSED, target=foreign.name)


@pytest.mark.parametrize(
    ("mode", "kind", "match"),
    [
        ("lost", Kind.LINK, "adb is lost while running mnv2_load: error: device 'PHONE1' not"),
        ("full", Kind.UPLOAD, "adb did not take mnv2_load: .*No space left on device"),
        ("cut", Kind.UPLOAD, "adb has 1000 of the [0-9]+ bytes of mnv2_load"),
        ("noexec", Kind.UPLOAD, "adb cannot run programs in .*Permission denied.*noexec"),
    ],
)
def test_a_phone_that_fails(
    here: Target,
    plug_in: Plug,
    tiny: Built,
    mode: str,
    kind: Kind,
    match: str,
) -> None:
    plug_in(mode)
    with pytest.raises(DeviceError, match=match) as caught:
        run(tiny, here)
    assert caught.value.kind == kind


@pytest.mark.parametrize("signal", ["SEGV", "KILL"])
def test_a_program_that_crashes(here: Target, plug_in: Plug, tiny: Built, signal: str) -> None:
    plug_in("")
    with pytest.raises(DeviceError, match=f"crash: .*SIG{signal}"):
        run(tiny, here, runner=f"sh -c 'kill -{signal} $$'")


def test_no_adb_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    refused("adb is not installed here; apt install adb", Kind.LINK)


@pytest.mark.parametrize("serial", ["-d", "$(id)", "a;b", "a\nb", "a\x1b[2J", " a", "a" * 5000])
def test_a_serial_number_cannot_be_an_option_or_a_command(serial: str) -> None:
    with pytest.raises(UserError, match="no serial number of adb"):
        transport(f"adb:{serial}")


@pytest.mark.parametrize("way", ["", "adb:", "usb", "ssh", "telnet:host", "ADB"])
def test_ways_that_do_not_exist(way: str) -> None:
    with pytest.raises(UserError, match=r"--on takes here, .*adb"):
        transport(way)
