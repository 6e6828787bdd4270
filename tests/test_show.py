"""The show verb: the schedule that build takes, where it comes from, and a folded loop nest."""

import functools
import re
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import get_args

import pytest
from conftest import TINY, ended

from mnv2_tvm.errors import UserError
from mnv2_tvm.host import this_host
from mnv2_tvm.kernels.spaces import search_space
from mnv2_tvm.layer import Layer, Operator
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.pipeline import default_schedule, network_blocks, network_layers
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.records.entries import Record
from mnv2_tvm.records.tuning_log import TuningLog
from mnv2_tvm.show import Shown, fold, main, show
from mnv2_tvm.target import Target

MODULE = SourceNetwork.make(TINY, None, 0).relax()
LAYERS = network_layers(MODULE) + network_blocks(MODULE)
ONE_OF_EACH = [
    next(layer for layer in LAYERS if layer.operator == name) for name in get_args(Operator)
]
# A kernel is slow to compile: two register files, and one for what no machine changes.
two_targets = pytest.mark.parametrize("target", ["x86-avx2", "rasp4"], indirect=True)
one_target = pytest.mark.parametrize("target", ["rasp4"], indirect=True)
MORE = re.compile(r"( *)# \.\.\. (\d+) more like it")


def one_of(operator: str) -> Layer:
    return next(layer for layer in ONE_OF_EACH if layer.operator == operator)


@functools.cache
def shown_default(layer: Layer, target: Target, logs: Path) -> Shown:
    """What is shown without records, compiled once."""
    return show(layer, target, log_dir=logs)


@pytest.fixture(scope="module")
def no_logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of logs that stays empty."""
    logs = tmp_path_factory.mktemp("logs")
    for name in ("x86-avx2", "rasp4"):
        TuningLog.of(Target.load(name), logs).open_for_writing()
    return logs


@pytest.fixture
def logs(tmp_path: Path, target: Target) -> Path:
    """An empty folder of logs, to be written: nothing depends on the records that are shipped."""
    TuningLog.of(target, tmp_path).open_for_writing()
    return tmp_path


def keep(logs: Path, target: Target, layer: Layer, threads: int, point: int) -> Record:
    """Keep the point of the layer's space, counted without its default, as a record."""
    space = list(search_space(layer, target))
    default = default_schedule(layer, target)
    others = [schedule for schedule in space if schedule != default]
    provenance = {"cpu": "Model [5]", "date": "2025-04-03"}
    record = Record(
        layer, threads, others[point], 1234.5, (1200.0, 1234.5, 1300.0), 1e-7, provenance
    )
    TuningLog.of(target, logs).keep([record])
    return record


def invoke(capsys: pytest.CaptureFixture[str], *options: object) -> tuple[int, str, str]:
    """Exit code and both streams of `python -m mnv2_tvm.show OPTIONS`."""
    return ended(capsys, main, *options)


@pytest.mark.parametrize("layer", ONE_OF_EACH, ids=lambda layer: layer.name)
@two_targets
def test_default_without_a_record(layer: Layer, target: Target, no_logs: Path) -> None:
    shown = shown_default(layer, target, no_logs)
    assert shown.layer == layer
    assert shown.record is None
    assert shown.schedule == default_schedule(layer, target)
    assert shown.schedule == Decisions.load(target, 1, no_logs)(layer)
    assert 0 < shown.registers <= target.vector.registers
    assert shown.tasks == shown.schedule.tasks(layer)
    assert f"def {layer.name.replace('-', '_')}(" in shown.loop_nest


@one_target
@pytest.mark.parametrize("layer", ONE_OF_EACH, ids=lambda layer: layer.name)
def test_record_of_the_layer(layer: Layer, target: Target, logs: Path) -> None:
    record = keep(logs, target, layer, 1, 0)
    before = show(layer, target, log_dir=logs)
    assert before.record == record
    assert before.schedule == record.schedule == Decisions.load(target, 1, logs)(layer)
    other = keep(logs, target, layer, 1, -1)
    after = show(layer, target, log_dir=logs)
    assert after.schedule == other.schedule
    assert after.loop_nest != before.loop_nest


@one_target
def test_record_of_the_thread_count(target: Target, logs: Path) -> None:
    layer = ONE_OF_EACH[1]
    four = keep(logs, target, layer, 4, 0)
    assert show(layer, target, threads=1, log_dir=logs).record is None
    assert show(layer, target, threads=4, log_dir=logs).record == four
    one = keep(logs, target, layer, 1, 0)
    assert one.schedule == four.schedule
    for threads, record in ((1, one), (2, one), (4, four)):
        shown = show(layer, target, threads=threads, log_dir=logs)
        assert (shown.record, shown.schedule) == (record, record.schedule)


@one_target
def test_a_record_that_equals_the_default_of_other_threads(target: Target, logs: Path) -> None:
    """It is not what the schedule comes from."""
    layer = ONE_OF_EACH[1]
    provenance = {"cpu": "c"}
    schedule = default_schedule(layer, target)
    record = Record(layer, 4, schedule, 99.0, (99.0, 99.0, 99.0), 0.0, provenance)
    TuningLog.of(target, logs).keep([record])
    shown = show(layer, target, threads=2, log_dir=logs)
    assert (shown.schedule, shown.record) == (schedule, None)


@two_targets
def test_panel_is_what_a_pass_reads_of_the_weights(target: Target, no_logs: Path) -> None:
    bytes_of = {one: shown_default(one, target, no_logs).panel_bytes for one in ONE_OF_EACH}
    conv, depthwise, pointwise, pooling = map(one_of, ("conv", "dwconv", "pwconv", "avgpool"))
    panel = {layer: default_schedule(layer, target).panel for layer in ONE_OF_EACH}
    assert bytes_of[conv] == 9 * conv.in_channels * panel[conv] * 4
    assert bytes_of[depthwise] == 9 * panel[depthwise] * 4
    assert bytes_of[pointwise] == pointwise.in_channels * panel[pointwise] * 4
    assert bytes_of[pooling] == 0
    for block in (one_of("irb"), one_of("stem")):  # the largest of its parts'
        schedule = default_schedule(block, target)
        parts = zip(block.parts, schedule.panels(block), strict=True)
        sizes = [
            4 * prod(p.weight_shape[:2]) * max(widths) for p, widths in parts if p.weight_shape
        ]
        assert len(sizes) == 3
        assert bytes_of[block] == max(sizes)


def test_fold_leaves_two_of_each_run() -> None:
    script = """\
def f():
    for x in range(3):
        a[0] = a[0] + x[0] * w[0]
        a[1] = a[1] + x[0] * w[1]
        a[2] = a[2] + x[0] * w[2]
        a[3] = a[3] + w[3] * x[1]
        b[0] = a[0]
        b[1] = a[1]
    a[4] = a[4] + x[0] * w[4]
    a[5] = a[5] + x[0] * w[5]
    a[6] = a[6] + x[0] * w[6]
    pass"""
    assert (
        fold(script)
        == """\
def f():
    for x in range(3):
        a[0] = a[0] + x[0] * w[0]
        a[1] = a[1] + x[0] * w[1]
        # ... 2 more like it
        b[0] = a[0]
        b[1] = a[1]
    a[4] = a[4] + x[0] * w[4]
    a[5] = a[5] + x[0] * w[5]
    # ... 1 more like it
    pass"""
    )
    assert fold("") == ""


@two_targets
def test_fold_accounts_for_every_line(target: Target) -> None:
    """Of each kernel: kept lines and those that the comments count are the whole script."""
    for layer in ONE_OF_EACH:
        script = default_schedule(layer, target).emit(layer, target).script().splitlines()
        position = 0
        for line in fold("\n".join(script)).splitlines():
            if more := MORE.fullmatch(line):
                left_out = script[position : position + int(more[2])]
                stored = {re.match(r"\s*\w+", one)[0] for one in left_out}  # type: ignore[index]
                assert len(stored) == 1, (layer, "lines of several buffers are not alike")
                position += int(more[2])
            else:
                assert line == script[position], layer
                position += 1
        assert position == len(script), layer


@two_targets
def test_fold_shortens_the_unrolled_kernels(target: Target) -> None:
    """The largest tile of the depthwise space has hundreds of statements."""
    layer = next(one for one in LAYERS if one.operator == "dwconv" and one.height > 4)
    space = list(search_space(layer, target))
    scripts = [point.emit(layer, target).script() for point in (space[len(space) // 2], space[-1])]
    for script in scripts:
        runs = [bool(MORE.fullmatch(line)) for line in fold(script).splitlines()]
        assert not any(both == (True, True) for both in pairwise(runs))
        assert sum(runs) > 0
    assert all(len(fold(s).splitlines()) < len(s.splitlines()) for s in scripts)


@one_target
@pytest.mark.parametrize("layer", ONE_OF_EACH, ids=lambda layer: layer.name)
def test_prints_one_layer(
    layer: Layer, target: Target, logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--target", target.name, "--layer", layer.name, "--log-dir", logs]
    code, output, errors = invoke(capsys, *options)
    assert (code, errors) == (0, "")
    rows = dict(re.findall(r"^(\w[\w ]*?)  +(\S.*?) *$", output.partition("\n\n")[0], re.M))
    assert rows["layer"] == layer.name
    assert rows["FLOPs"] == str(layer.flops)
    assert rows["decisions"] == str(default_schedule(layer, target))
    assert rows["from"].endswith("(no record)")
    script = default_schedule(layer, target).emit(layer, target).script()
    assert output.endswith(fold(script) + "\n")


@one_target
def test_prints_the_record_of_a_layer(
    target: Target, logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = one_of("pwconv")
    record = keep(logs, target, layer, 1, 0)
    options = ["--target", target.name, "--layer", layer.name, "--log-dir", logs]
    output = invoke(capsys, *options)[1]
    assert str(record.schedule) in output
    words = " ".join(output.split())
    assert "a record, tuned elsewhere: 1234.5 us inside the network; cpu Model [5]," in words


@one_target
def test_prints_all_layers_of_a_network(
    target: Target, logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = SourceNetwork.make(Architecture(0.5, 96), None, 0).relax()
    layers = network_blocks(module) + network_layers(module)
    tuned = network_layers(module)[0]
    apart = network_blocks(module)[0]
    keep(logs, target, tuned, 1, 0)
    here = {"cpu": this_host().cpu}
    record = Record(apart, 1, None, 1234.5, (1200.0, 1234.5, 1300.0), 0.0, here)
    TuningLog.of(target, logs).keep([record])
    size = ["--width", 0.5, "--resolution", 96]
    code, output, errors = invoke(capsys, "--target", target.name, *size, "--log-dir", logs)
    assert (code, errors) == (0, "")
    assert output.startswith(f"0.5-96 on {target.name}\n")
    named = re.findall(r"^ (f32-\S+) +(tuned elsewhere|tuned|default) ", output, re.M)
    expected = {layer.name: "default" for layer in layers}
    expected |= {tuned.name: "tuned elsewhere", apart.name: "tuned"}
    assert named == list(expected.items())
    assert re.search(rf"^ {re.escape(apart.name)} +tuned +layer by layer *$", output, re.M)


@one_target
def test_a_glob_chooses_layers(
    target: Target, logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--width", TINY.width, "--resolution", TINY.resolution, "--log-dir", logs]
    code, output, _ = invoke(capsys, "--target", target.name, *size, "--layer", "*dwconv-3x3s2*")
    assert code == 0
    wanted = [one.name for one in LAYERS if one.operator == "dwconv" and one.window.stride == 2]
    assert wanted
    assert re.findall(r"f32-\S+", output) == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "f32-dwconv-112x112x96"], "'f32-dwconv-112x112x96' is not a layer's name"),
        (["--layer", "conv1"], "'conv1' is not a layer's name"),
        (["--layer", "*softmax*"], "no layer matches '*softmax*'; leave --layer out to see all"),
        (["--log-dir", "none"], "none is not a folder of tuning logs"),
        (["--width", "0"], ""),
    ],
)
def test_mistakes_end_in_one_sentence(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output, errors = invoke(capsys, "--target", "x86-avx2", *options)
    assert (code, output) == (1, "")
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1


def test_unknown_target(no_logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, errors = invoke(capsys, "--target", "x87", "--log-dir", no_logs)
    assert code == 1
    assert errors.startswith("error: unknown target 'x87'; known targets: ")


@one_target
def test_show_refuses_a_missing_folder_of_logs(target: Target, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none is not a folder of tuning logs"):
        show(ONE_OF_EACH[0], target, log_dir=tmp_path / "none")
