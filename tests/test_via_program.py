"""The program itself: what it is for every target, what it prints, how it ends."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TINY, ended, machines
from elftools.elf.elffile import ELFFile

from mnv2_tvm.bench import main as bench_main
from mnv2_tvm.build import build_program
from mnv2_tvm.deploy.library import Interface
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.deploy.program import write_bench_program
from mnv2_tvm.devices.program.told import SCRIPT, read_told
from mnv2_tvm.errors import UserError
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.pipeline import compile_network
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.target import Target
from mnv2_tvm.tune import main as tune_main

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def source() -> SourceNetwork:
    return SourceNetwork.make(TINY, None, seed=0)


@pytest.fixture(scope="module")
def program(
    here: Target, source: SourceNetwork, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Manifest]:
    path = tmp_path_factory.mktemp("program") / "mnv2_bench"
    return path, build_program(here, source, path)


def run(path: Path, *words: str) -> Done:
    return subprocess.run(
        [path, *words], capture_output=True, text=True, check=False, timeout=120, env={}
    )


def targets_of_each_triple() -> list[str]:
    """A machine for each triple that programs are linked for; "" is that of microcontrollers."""
    return list({Target.load(name).link.program_triple: name for name in machines()}.values())


@pytest.mark.parametrize("name", targets_of_each_triple())
def test_the_program_of_every_triple_is_static_and_fits_large_pages(
    name: str, source: SourceNetwork, tmp_path: Path
) -> None:
    """Some ARM servers have kernels with pages of 64 KiB."""
    target = Target.load(name)
    if target.microcontroller is not None:
        with pytest.raises(UserError, match=name):
            build_program(target, source, tmp_path / "new" / "program")
        return
    build_program(target, source, tmp_path / "new" / "program")
    with (tmp_path / "new" / "program").open("rb") as file:
        segments = list(ELFFile(file).iter_segments())
    assert not any(segment["p_type"] in ("PT_INTERP", "PT_DYNAMIC") for segment in segments)
    loads = [segment for segment in segments if segment["p_type"] == "PT_LOAD"]
    assert loads and all(segment["p_align"] % 65536 == 0 for segment in loads)


def test_what_it_prints(program: tuple[Path, Manifest]) -> None:
    path, manifest = program
    done = run(path, "--runs", "20", "--per-layer", "--threads", "2", "--warmup", "0")
    assert done.returncode == 0, done
    table = json.loads(done.stdout)
    assert table["program"] == f"MobileNetV2 1x32x32x3 for {manifest.target}"
    assert table["threads"] == 2 and table["warmup"] == 0
    times = sorted(table["times_ms"])
    assert len(times) == 20
    assert table["latency"]["min_ms"] == times[0]
    assert table["latency"]["median_ms"] == pytest.approx((times[9] + times[10]) / 2, rel=1e-4)
    assert table["latency"]["p90_ms"] == pytest.approx(0.9 * times[17] + 0.1 * times[18], rel=1e-4)
    assert [row["name"] for row in table["layers"]] == [row["name"] for row in manifest.layers]
    assert all(len(row["samples_us"]) == 20 for row in table["layers"])
    assert "FMA peak" in done.stderr and manifest.layers[0]["name"] in done.stderr
    # All of the weights were read, and nobody but the program is in it.
    assert manifest.weight_bytes < table["peak_rss_bytes"] < manifest.weight_bytes + 8 * 2**20


def test_a_wrong_option_ends_with_the_usage(program: tuple[Path, Manifest]) -> None:
    for words in (
        *(["--runs"], ["--runs", "0"], ["--runs", "x"], ["--runs", "3x"], ["--runs", ""]),
        *(["--threads", "65"], ["--warmup", "-1"], ["--deadline", "0"], ["7"], ["--help"]),
    ):
        done = run(program[0], *words)
        assert done.returncode == 2 and not done.stdout, words
        assert done.stderr.startswith("usage: mnv2_bench [--runs N]"), words


def test_a_deadline(program: tuple[Path, Manifest]) -> None:
    assert run(program[0], "--runs", "1000000", "--deadline", "1").returncode == -14


def test_wrong_numbers(
    here: Target, source: SourceNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference says something else than what the program computes."""
    reference = source.reference

    def wrong(_self: SourceNetwork, images: object) -> object:
        return reference(images) + 1  # type: ignore[arg-type]

    monkeypatch.setattr(SourceNetwork, "reference", wrong)
    build_program(here, source, tmp_path / "program")
    done = run(tmp_path / "program")
    assert done.returncode == 1 and not done.stdout
    assert "mnv2_bench: wrong numbers: relative error" in done.stderr


def test_a_difference_that_is_no_number_is_wrong(
    here: Target, source: SourceNetwork, tmp_path: Path
) -> None:
    compilation = compile_network(source.relax(), here, Decisions.load(here, 1))
    images = source.images(0)
    interface = Interface.of(compilation, 1)
    expected = source.reference(images)
    expected[0, 3] = float("nan")
    path = tmp_path / "program"
    write_bench_program(compilation, interface, images, expected, path)
    done = run(path)
    assert done.returncode == 1 and "relative error inf" in done.stderr


def test_the_command_line_writes_it(
    here: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out" / "mnv2_bench"
    words = f"--target {here.name} --width 0.35 --resolution 32 --classes 10 --threads 2"
    code, said, errors = ended(capsys, bench_main, *words.split(), "--program", path)
    assert code == 0, errors
    assert str(path) in said
    assert json.loads(run(path, "--runs", "1").stdout)["threads"] == 2


def test_a_program_cannot_take_the_place_of_a_folder(
    here: Target, source: SourceNetwork, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="is a folder; give the program a name in it"):
        build_program(here, source, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to"):
        build_program(here, source, tmp_path / "file" / "program")


def test_a_target_without_an_operating_system(
    here: Target, source: SourceNetwork, tmp_path: Path
) -> None:
    bare = replace(here, link=replace(here.link, program_triple=""))
    with pytest.raises(UserError, match=r"no program can be linked .* no operating system"):
        build_program(bare, source, tmp_path / "program")
    assert list(tmp_path.iterdir()) == []


def test_options_that_do_not_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    of_bench = [
        ("--on ssh:a", "--target"),
        ("--target host --on tracker:h:1", "--target"),
        ("--library out --program p", "--target NAME"),
        ("--library out --target rasp4", "--target NAME"),
        ("--target rasp4 --on ssh:a --tracker 1:1", "--on tracker:1:1"),
        ("--target rasp4 --via ssh:a --tracker 1:1", "--on ssh:a"),
        ("--target rasp4 --on nowhere", "--on"),
        ("--target rasp4 --on ssh:a --on ssh:a", "twice"),
        ("--target rasp4 --on ssh:a --on adb --json o.json", "--json"),
        ("--target host --runner qemu", "--runner"),
        ("--target rasp4 --on ssh:a --runner 'a", "--runner ''a'"),
        ("--target rasp4 --on ssh:a --program p", "--on"),
        ("--target host --per-layer --program p", "--per-layer"),
        ("--target host --json out.json --program p", "--json"),
    ]
    of_tune = [
        ("--target rasp4 --via ssh:a --tracker h:1", "--tracker"),
        ("--target rasp4 --on usb", "--on"),
        ("--target rasp4 --on ssh:a --on tracker", "different ways"),
        ("--on ssh:a", "--target"),
        ("--tracker h:1", "--target"),
    ]
    for main, cases in ((bench_main, of_bench), (tune_main, of_tune)):
        for words, named in cases:
            code, _, errors = ended(capsys, main, *words.split())
            assert code == 1, words
            *notes, last = errors.splitlines()
            assert last.startswith("error: ") and named in last, (words, errors)
            assert all(note.startswith("note: ") for note in notes)


def told(text: str, target: str = "rasp4") -> dict[str, object]:
    return read_told(text, Target.load(target).host)


def test_what_a_raspberry_pi_tells() -> None:
    text = "Welcome!\n=== machine\naarch64\n\n=== cores\n4\n\n=== product\n\n=== cpuinfo\n"
    text += "processor\t: 0\nFeatures\t: fp asimd crc32\n\nModel\t\t: Raspberry Pi 4 Model B\n\n"
    text += "=== model\nRaspberry Pi 4\0\n=== clock\n1500000\n\n=== temperature\n48000\n\n"
    found = told(text)
    assert found["cpu"] == "Raspberry Pi 4 Model B" and found["machine"] == "aarch64"
    assert found["clock_mhz"] == 1500 and found["temperature_c"] == 48 and found["cores"] == 4
    assert found["features"] == ["asimd", "crc32", "fp"]
    as_32 = told(text, "rasp4-32")  # a 64-bit kernel runs 32-bit programs too
    assert as_32["machine"] == "armv7l"
    assert set(Target.load("rasp4-32").host.features) <= set(as_32["features"])  # type: ignore[call-overload]


def test_what_this_machine_tells(here: Target) -> None:
    done = subprocess.run(["sh", "-c", SCRIPT], capture_output=True, text=True, check=False)
    found = read_told(done.stdout, here.host)
    assert found["machine"] == here.host.machine and found["cores"] >= 1
    assert set(here.host.features) <= set(found["features"])
