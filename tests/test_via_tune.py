"""Tuning by programs: on this machine through a simulated adb, and an emulated board over ssh."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import TINY
from fake_adb import write_fake_adb
from program_devices import remote
from rich.console import Console
from small_search import short_tune
from ssh_server import ssh_server

from mnv2_tvm.deploy.link import compile_c
from mnv2_tvm.devices.program.candidates import build_candidate_object, read_results
from mnv2_tvm.devices.program.device import ProgramDevice
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Failure, Kind
from mnv2_tvm.kernels import Schedule
from mnv2_tvm.kernels.spaces import search_space
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.candidate import Result, Timing
from mnv2_tvm.records.tuning_log import TuningLog
from mnv2_tvm.target import Target
from mnv2_tvm.tune import TuneReport, tune

DEPTHWISE = Layer.parse("f32-dwconv-3x3s1-16x16x48")


def tune_on(
    way: str, target: Target, log_dir: Path, layer: str, runner: str | None = None
) -> tuple[TuneReport, str]:
    """A short search; what it found and what it said."""
    said = io.StringIO()
    report = short_tune(
        target,
        TINY,
        trials=2,
        layer=layer,
        log_dir=log_dir,
        on=[way],
        runner=runner,
        console=Console(file=said, width=1000),
    )
    return report, said.getvalue()


def test_tune_over_ssh(here: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here and on an emulated Raspberry Pi; nothing stays on the board."""
    monkeypatch.setattr("mnv2_tvm.devices.program.device._ROUNDS", 2)
    monkeypatch.setattr("mnv2_tvm.devices.program.device._RUNS", 3)
    (tmp_path / "ssh").mkdir()
    with ssh_server(tmp_path / "ssh") as server:
        monkeypatch.setenv("PATH", str(server.bin), prepend=":")
        for target, runner in (here, None), (Target.load("rasp4-32"), "qemu-arm -cpu max"):
            log_dir = tmp_path / target.name
            layer = "f32-dwconv-3x3s1-8x8x*"
            report, said = tune_on("ssh:board", target, log_dir, layer, runner)
            assert report.tally.measured > 0 and report.tally.failed == 0, said
            log = TuningLog.of(target, log_dir)
            assert {m.emulated for m in log.measurements()} == {runner is not None}
            kept = [record for record in report.records if record.schedule]
            assert kept and all(0 < record.max_error < 1e-4 for record in kept)
            assert all(r.emulated == bool(runner) for r in kept)
            assert {r.cpu for r in kept} == {m.machine.cpu for m in log.measurements()} != {""}
            assert list(server.there.iterdir()) == []


def test_emulated_times_want_a_log_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fake_adb(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(UserError, match=r"adb is emulated.*--log-dir"):
        tune(Target.load("android"), TINY, on=["adb"], runner="qemu-aarch64")


@contextmanager
def phone(
    target: Target, folder: Path, say: Callable[[str], None], mode: str = ""
) -> Iterator[ProgramDevice]:
    """A device behind the simulated adb."""
    write_fake_adb(folder, mode)
    with ProgramDevice(remote("adb", target), say) as device:
        yield device
    assert list((folder / "phone").iterdir()) == []


def measure(
    device: ProgramDevice, schedules: list[Schedule], target: Target, folder: Path
) -> list[Result]:
    """The results of building and measuring the schedules of DEPTHWISE, in their order."""
    jobs = []
    for number, schedule in enumerate(schedules):
        path = folder / str(number)
        built = build_candidate_object(DEPTHWISE, schedule, target, path)
        jobs.append((DEPTHWISE, schedule, built))
    found = list(device.candidates(jobs, 60))
    assert [job for job, _ in found] == jobs
    return [result for _, result in found]


@pytest.fixture
def points(here: Target) -> list[Schedule]:
    return list(search_space(DEPTHWISE, here))[:4]


@pytest.fixture(autouse=True)
def _path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def test_a_candidate_that_crashes_or_hangs_or_is_wrong_costs_only_itself(
    here: Target, points: list[Schedule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels of three of the five are replaced by C functions that do just that."""
    bodies = ["", "__builtin_trap();", "for (volatile int i = 0;; i++) {}", "(void)0;", ""]
    monkeypatch.setattr("mnv2_tvm.devices.program.device.patience_s", lambda flops: 2.0)
    schedules = [points[0], *points[:3], points[1]]
    with phone(here, tmp_path, print) as device:
        jobs = []
        for number, (schedule, body) in enumerate(zip(schedules, bodies, strict=True)):
            path = tmp_path / str(number)
            built = build_candidate_object(DEPTHWISE, schedule, here, path)
            if body:
                replace_kernel(built, body, here)
            jobs.append((DEPTHWISE, schedule, built))
        results = [result for _, result in device.candidates(jobs, 60)]
    first, crashed, hung, wrong, last = results
    for right in (first, last):
        assert isinstance(right, Timing) and right.right and right.max_error < 1e-4
        assert right.median_us and 0 < right.median_us < 1e6 and not right.emulated
    assert isinstance(crashed, Failure) and crashed.kind is Kind.CRASH
    assert "SIGILL" in crashed.message and "lacks an instruction" in crashed.message
    assert isinstance(hung, Failure) and hung.kind is Kind.TIMEOUT
    assert isinstance(wrong, Timing) and not wrong.right and wrong.max_error == float("inf")


def replace_kernel(built: Path, body: str, target: Target) -> None:
    source = built.with_suffix(".c")
    source.write_text(f"int candidate_{built.stem}(void) {{ {body} return 0; }}\n")
    compile_c(source, target, built)


def test_a_device_that_is_lost_ends_the_search_after_a_second_try(
    here: Target, points: list[Schedule], tmp_path: Path
) -> None:
    said: list[str] = []
    with phone(here, tmp_path, said.append, "lost") as device:
        with pytest.raises(DeviceError, match="link: adb is lost while running mnv2_candidates"):
            measure(device, points, here, tmp_path)
        assert "what it had is tried again" in said[0]


def test_a_device_that_comes_back_is_asked_again(
    here: Target, points: list[Schedule], tmp_path: Path
) -> None:
    def plug_in_again(text: str) -> None:
        assert "adb is lost" in text
        remove_mode(tmp_path)

    with phone(here, tmp_path, plug_in_again, "lost") as device:
        results = measure(device, points, here, tmp_path)
    assert all(isinstance(result, Timing) and result.right for result in results)


def remove_mode(folder: Path) -> None:
    """The phone is well again."""
    text = (folder / "adb").read_text()
    (folder / "adb").write_text(text.replace("MODE, PHONE = 'lost'", "MODE, PHONE = ''"))


def test_what_a_device_prints_is_checked() -> None:
    lines = [
        {"candidate": 0, "relative_error": 0.0, "median_us": 3},
        {"candidate": 1, "signal": 11},
        {"candidate": 9, "signal": 11},
        {"candidate": 2, "median_us": 3},
        {"candidate": 3, "relative_error": "small"},
        ["candidate"],
    ]
    text = "Welcome!\n" + "\n".join(map(json.dumps, lines)) + '\n{"candidate": 4, "rel'
    assert read_results(text, 5) == {
        0: {"relative_error": 0.0, "median_us": 3.0},
        1: {"signal": 11.0},
    }
