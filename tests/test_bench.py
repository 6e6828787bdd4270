"""`bench`: numbers before times, every field of the result, and every mistake a user can make."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import mnv2_tvm.measure.memory
from mnv2_tvm import cli
from mnv2_tvm.bench import BenchResult, bench, layer_table, main, summary
from mnv2_tvm.build import build
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.host import this_host
from mnv2_tvm.measure.bench import Plan
from mnv2_tvm.measure.memory import measure_in_child
from mnv2_tvm.model import Architecture, random_state
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.target import Target

TINY = Architecture(0.35, 32, classes=10)
SEED = 1


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "library"
    build(Target.load("host"), SourceNetwork.make(TINY, None, SEED), folder)
    return folder


@pytest.fixture(scope="module")
def result(library: Path) -> BenchResult:
    source = SourceNetwork.make(TINY, None, SEED)
    return bench(library, source, Plan(5, 1, per_layer=True))


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a run that ends with exit code 1 and prints no times."""
    with pytest.raises(SystemExit) as caught:
        cli.run_verb(main, [*arguments])
    out, err = capsys.readouterr()
    assert caught.value.code == 1
    assert out == ""
    return err


def succeed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.run_verb(main, [*arguments])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_rates_follow_from_times(result: BenchResult) -> None:
    latency = result.latency
    assert 0 < latency.min_ms <= latency.p10_ms <= latency.median_ms <= latency.p90_ms
    seconds = latency.median_ms / 1e3
    assert result.gflop_per_s == pytest.approx(result.manifest.flops / seconds / 1e9)
    assert result.peak_share == pytest.approx(result.gflop_per_s / result.peak_gflop_per_s)
    assert result.relative_error < 1e-4


def test_one_row_for_every_layer_in_order(library: Path, result: BenchResult) -> None:
    layers = Manifest.read(library).layers
    assert [row.name for row in result.layers] == [layer["name"] for layer in layers]
    assert [row.source for row in result.layers] == [layer["source"] for layer in layers]
    assert sum(row.time_share for row in result.layers) == pytest.approx(1)
    for row, layer in zip(result.layers, layers, strict=True):
        assert row.gflop_per_s == pytest.approx(layer["flops"] / row.median_us / 1e3)
        assert row.peak_share == pytest.approx(row.gflop_per_s / result.peak_gflop_per_s)


def test_memory_is_that_of_a_process_without_compiler_and_torch(
    library: Path, result: BenchResult
) -> None:
    """This process has both loaded: its own size must not leak into the child's."""
    own_bytes = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    manifest = Manifest.read(library)
    memory = measure_in_child(library, threads=1)
    for found in (memory, result.memory):
        assert found.rss_growth_bytes < found.peak_rss_bytes < own_bytes / 2
        assert found.rss_growth_bytes > manifest.weight_bytes / 2


def test_a_run_needs_neither_compiler_nor_torch(library: Path) -> None:
    program = f"""
import sys, numpy, mnv2_tvm, mnv2_tvm.measure.memory
network = mnv2_tvm.load({str(library)!r})
network(numpy.ones(network.input_shape, numpy.float32))
print(sorted({{"tvm", "tvm_ffi", "torch"}} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_what_the_child_says_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"memory of .* cannot be measured:\nerror: .*manifest"):
        measure_in_child(tmp_path, threads=1)


@pytest.mark.parametrize(
    ("script", "seconds", "kind", "words"),
    [
        ("sleep 60", 1.0, Kind.TIMEOUT, "did not answer within 1 s while running .* to measure"),
        ("yes", 60.0, Kind.ERROR, "said more than 1048576 bytes while running .* to measure"),
    ],
)
def test_a_child_that_hangs_or_writes_without_end_is_cut_off(
    script: str,
    seconds: float,
    kind: Kind,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = tmp_path / "python"
    child.write_text(f"#!/bin/sh\nexec {script}\n")
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))
    monkeypatch.setattr(mnv2_tvm.measure.memory, "_DEADLINE_S", seconds)
    with pytest.raises(DeviceError, match=words) as error:
        measure_in_child(tmp_path, threads=1)
    assert error.value.kind is kind


def test_json_has_all_of_the_result(library: Path, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    options = ["--runs", "3", "--warmup", "0", "--per-layer", "--seed", "5", "--threads", "2"]
    with pytest.raises(SystemExit) as caught:
        cli.run_verb(main, ["--library", str(library), "--json", str(path), *options])
    assert caught.value.code == 0
    table = json.loads(path.read_text(encoding="utf-8"))
    assert table.keys() == BenchResult.__dataclass_fields__.keys()
    assert table["manifest"] == asdict(Manifest.read(library))
    assert (table["runs"], table["warmup"], table["seed"], table["threads"]) == (3, 0, 5, 2)
    assert table["host"]["cpu"] == this_host().cpu
    assert table["host"]["cores"] == this_host().cores
    assert table["latency"].keys() == {"median_ms", "p10_ms", "p90_ms", "min_ms"}
    assert table["memory"].keys() == {"peak_rss_bytes", "rss_growth_bytes"}
    assert table["date"].endswith("+00:00")
    assert {"apache-tvm", "numpy", "mnv2-tvm"} <= table["versions"].keys()
    assert len(table["layers"]) == len(table["manifest"]["layers"])
    assert [file.name for file in tmp_path.iterdir()] == ["bench.json"]


def test_threads_are_those_of_the_build_unless_given(library: Path) -> None:
    source = SourceNetwork.make(TINY, None, SEED)
    assert bench(library, source, Plan(1), threads=2).threads == 2
    assert bench(library, source, Plan(1)).threads == 1


def test_without_a_library_one_is_built_for_this_host(
    here: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--width", "0.35", "--resolution", "32", "--classes", "3", "--batch", "2"]
    out = succeed(capsys, *size, "--runs", "2")
    assert re.search(rf"target +{here.name}, 1 thread", out)
    assert "0.35_32, random, seed 0" in out
    assert "2 runs of 2 image(s)" in out
    assert "f32-" not in out  # no rows of layers unless asked for


def test_tables_fit_a_terminal_of_100_columns_uncut(
    library: Path, result: BenchResult, capsys: pytest.CaptureFixture[str]
) -> None:
    out = succeed(capsys, "--library", str(library), "--runs", "2", "--per-layer")
    assert "\x1b" not in out
    assert "…" not in out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 100
    for row in result.layers:
        assert f" {row.name} " in out
    assert layer_table(result.layers).row_count == len(result.layers)


def test_wrong_numbers_end_it_without_times(library: Path) -> None:
    with pytest.raises(UserError, match=r"wrong numbers: .*seed 1.*seed 0"):
        bench(library, SourceNetwork.make(TINY, None, 0))


def test_another_shape_is_named(library: Path) -> None:
    other = SourceNetwork.make(Architecture(0.35, 32, classes=11), None, SEED)
    with pytest.raises(UserError, match=r"takes \[1, 32, 32, 3\] to \[1, 10\].*to \[1, 11\]"):
        bench(library, other)


def test_weights_of_a_file_must_be_given_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, weights, wrong = (tmp_path / name for name in ("out", "w.safetensors", "v.safetensors"))
    save_file(random_state(TINY, 3), weights)
    save_file(random_state(TINY, 4), wrong)
    build(Target.load("host"), SourceNetwork.make(TINY, weights, 0), folder)
    err = fail(capsys, "--library", str(folder))
    assert "w.safetensors" in err
    assert "--weights FILE" in err
    assert "wrong numbers" in fail(capsys, "--library", str(folder), "--weights", str(wrong))
    succeed(capsys, "--library", str(folder), "--weights", str(weights), "--runs", "2")


def test_seeded_weights_are_made_again(library: Path) -> None:
    source = SourceNetwork.of_library(Manifest.read(library), None)
    state = SourceNetwork.make(TINY, None, SEED).state
    assert source.architecture == TINY
    assert source.weights == f"random, seed {SEED}"
    for key, array in source.state.items():
        np.testing.assert_array_equal(array, state[key])


def test_library_or_target(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ["--library", str(library), "--target", "host"]
    assert "either --library DIR or --target NAME" in fail(capsys, *both)


@pytest.mark.parametrize(
    ("option", "value"), [("width", "0.5"), ("resolution", "64"), ("classes", "9"), ("batch", "2")]
)
def test_a_library_has_its_shape_already(
    option: str, value: str, library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"--{option} goes with --target" in fail(
        capsys, "--library", str(library), f"--{option}", value
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("--json no/such/folder/bench.json", "no/such/folder is not a folder"),
        ("--json /", "it is a folder"),
        ("--json /proc/bench.json", "cannot write /proc/bench.json"),
        ("--cpus 0,0", "each once"),
        ("--cpus ,", "numbers of CPUs"),
        ("--cpus -1", "numbers of CPUs"),
        ("--cpus \uff11", "numbers of CPUs"),
        ("--cpus 99999", "this machine has CPUs 0 to"),
        (f"--cpus {5000 * '9'}", "numbers of CPUs"),
        ("--tracker host:99999", "host:99999"),
        ("--weights no/such.pth", "no/such.pth"),
        ("--state model", "--state goes with --weights FILE"),
    ],
)
def test_mistakes_are_told_before_the_work(
    arguments: str, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnv2_tvm.bench.build", lambda *_, **__: pytest.fail("it was built"))
    told = fail(capsys, "--target", "host", *arguments.split())
    assert re.search(text, told) and len(told) < 400


@pytest.mark.parametrize(
    "arguments",
    [
        "--runs 0",
        "--runs 9999999",
        f"--runs {5000 * '9'}",
        "--warmup -1",
        "--threads 65",
        "--seed -1",
    ],
)
def test_a_count_that_cannot_be_is_a_wrong_option(
    arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run_verb(main, ["--target", "host", *arguments.split()])
    assert caught.value.code == 2
    assert arguments.split()[0] in capsys.readouterr().err


def test_a_function_checks_its_counts_too(library: Path) -> None:
    with pytest.raises(UserError, match="0 runs"):
        bench(library, SourceNetwork.make(TINY, None, SEED), Plan(0))


def test_a_target_that_cannot_run_here_is_not_built(capsys: pytest.CaptureFixture[str]) -> None:
    told = fail(capsys, "--target", "cortex-m7")
    assert "cannot run cortex-m7" in told and "--on" in told


def test_more_threads_than_cpus_are_warned_of(library: Path) -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        crowded = bench(library, SourceNetwork.make(TINY, None, SEED), Plan(1, 0), threads=3)
    finally:
        os.sched_setaffinity(0, allowed)
    (warning,) = crowded.warnings
    assert "3 threads" in warning and "1 CPU" in warning
    assert warning in list(summary(crowded).columns[1].cells)


def test_a_folder_that_is_no_library(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{tmp_path} holds no manifest.json" in fail(capsys, "--library", str(tmp_path))


def test_an_unwritable_json_is_named(library: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run_verb(main, ["--library", str(library), "--runs", "1", "--json", str(tmp_path)])
    assert caught.value.code == 1
