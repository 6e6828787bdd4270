"""The search on tiny layers, with its real workers: it goes on, it survives, it keeps no wrong one.

Most tests run `python -m mnv2_tvm.tune` or `tune` itself; a copy of the package with one line
changed stands for a broken machine or a broken kernel.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from io import StringIO
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run_python
from rich.console import Console

import mnv2_tvm
from mnv2_tvm.build import build
from mnv2_tvm.data import data_folder
from mnv2_tvm.deploy.loader import load
from mnv2_tvm.errors import UserError
from mnv2_tvm.kernels import Schedule, schedule_class
from mnv2_tvm.kernels.depthwise import Depthwise
from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture
from mnv2_tvm.network import SourceNetwork, relative_error
from mnv2_tvm.pipeline import default_schedule, network_blocks, network_layers
from mnv2_tvm.search.candidate import build_candidate, measure_candidate
from mnv2_tvm.search.cost_model import CostModel, features
from mnv2_tvm.search.layers import LayerSearch, known_layers, search_layers
from mnv2_tvm.search.problem import TOLERANCE
from mnv2_tvm.search.progress import Progress
from mnv2_tvm.search.records import MEASUREMENTS, RECORDS, Decisions, Measurement, TuningLog
from mnv2_tvm.target import Target
from mnv2_tvm.tune import TuneReport, tune

SMALL = Architecture(0.35, 32)
SIZE = ["--width", "0.35", "--resolution", "32"]
MODULE = SourceNetwork.make(SMALL, None, 0).relax()
LAYERS, BLOCKS = network_layers(MODULE), network_blocks(MODULE)
GLOB = "f32-*conv-*1x1x336*"  # depthwise, linear and residual
SEARCHED = {layer for layer in LAYERS if fnmatchcase(layer.name, GLOB)}
TRIALS = 6

_PATIENCE_S = 240.0  # for what must happen soon; a loaded machine may take its time


@dataclass(frozen=True)
class Tuned:
    """A search that is over, and the folder of its logs. Copy the folder to go on from there."""

    log_dir: Path
    report: TuneReport


@pytest.fixture(scope="module")
def tuned(here: Target, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    log_dir = tmp_path_factory.mktemp("logs")
    return Tuned(log_dir, tune(here, SMALL, layer=GLOB, trials=TRIALS, log_dir=log_dir))


def lines_of(log: TuningLog) -> list[str]:
    """The whole lines of the measurements."""
    path = log.folder / MEASUREMENTS
    return path.read_text().splitlines(keepends=True) if path.exists() else []


def parsed(lines: list[str]) -> list[Measurement]:
    return [Measurement.from_json(json.loads(line)) for line in lines]


def assert_nothing_twice(measurements: list[Measurement]) -> None:
    counts = Counter((m.layer, m.schedule) for m in measurements)
    assert max(counts.values(), default=1) == 1


def space_of(layer: Layer, target: Target) -> list[Schedule]:
    return list(schedule_class(layer).space(layer, target))


def trials_of(target: Target, trials: int) -> Counter[Layer]:
    """How many points of each layer a search measures: a small space has fewer than asked for."""
    return Counter({layer: min(trials, len(space_of(layer, target))) for layer in SEARCHED})


# A whole search


def test_searched_layers_have_measurements_inside_their_space(here: Target, tuned: Tuned) -> None:
    measurements = parsed(lines_of(TuningLog.of(here, tuned.log_dir)))
    assert_nothing_twice(measurements)
    assert Counter(m.layer for m in measurements) == trials_of(here, TRIALS)
    for layer in SEARCHED:
        mine = [m for m in measurements if m.layer == layer]
        assert default_schedule(layer, here) in {m.schedule for m in mine}
        assert {m.schedule for m in mine} <= set(space_of(layer, here))
        for m in mine:
            assert m.failure is None and m.median_us is not None and m.max_error is not None
            assert m.median_us > 0 and 0 <= m.max_error <= TOLERANCE
    tally = tuned.report.tally
    assert (tally.measured, tally.failed) == (len(measurements), 0)


def test_records_are_of_the_fastest(here: Target, tuned: Tuned) -> None:
    log = TuningLog.of(here, tuned.log_dir)
    records, measurements = log.records(), log.measurements()
    assert records == sorted(tuned.report.records, key=lambda record: record.layer.name)
    assert {record.layer for record in records} == SEARCHED
    for record in records:
        times = {m.schedule: m.median_us for m in measurements if m.layer == record.layer}
        assert (times[record.schedule] or 0) <= 1.15 * min(t for t in times.values() if t)
        low, middle, high = record.samples_us
        assert 0 < low <= middle == record.median_us <= high
        assert record.threads == 1
        assert record.provenance.keys() >= {"cpu", "date", "mnv2-tvm", "apache-tvm"}
    assert min(tuned.report.result.default_ms, tuned.report.result.tuned_ms) > 0


def test_records_replay(here: Target, tuned: Tuned, tmp_path: Path) -> None:
    decisions = Decisions.load(here, 1, tuned.log_dir)
    for record in tuned.report.records:
        assert decisions(record.layer) == record.schedule
    network = SourceNetwork.make(SMALL, None, 7)
    manifest = build(here, network, tmp_path / "out", decisions=decisions)
    sources = {Layer.parse(row["name"]): row["source"] for row in manifest.layers}
    assert {layer for layer, source in sources.items() if source == "tuned"} == SEARCHED
    images = network.images(1)
    logits = load(tmp_path / "out")(images)
    assert relative_error(logits, network.reference(images)) <= TOLERANCE


def test_second_search_goes_on_after_a_cut_line(
    here: Target, tuned: Tuned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The machine went down while it wrote the last line: that one is measured again."""
    log_dir = tmp_path / "logs"
    shutil.copytree(tuned.log_dir, log_dir)
    log = TuningLog.of(here, log_dir)
    path = log.folder / MEASUREMENTS
    path.write_bytes(path.read_bytes()[:-30])
    *whole, cut = lines_of(log)
    number = len(whole) + 1

    report = tune(here, SMALL, layer=GLOB, trials=TRIALS + 1, log_dir=log_dir)
    assert f"warning: {path}:{number}: skipped: " in capsys.readouterr().err
    lines = lines_of(log)
    assert lines[:number] == [*whole, f"{cut}\n"]
    measurements = parsed(whole + lines[number:])
    assert_nothing_twice(measurements)
    assert Counter(m.layer for m in measurements) == trials_of(here, TRIALS + 1)
    assert report.tally.measured == len(measurements) - len(whole) > 1
    assert {record.layer for record in log.records()} == SEARCHED


def test_layer_without_match_names_the_layers(here: Target, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no layer matches 'f32-lstm\*'") as caught:
        tune(here, SMALL, layer="f32-lstm*", log_dir=tmp_path)
    assert str(caught.value).splitlines()[1:] == sorted(
        {f"  {layer.name}" for layer in LAYERS + BLOCKS}
    )


def test_a_target_of_another_machine_is_refused(here: Target, tmp_path: Path) -> None:
    needs = replace(here.host, features=("avx1024",))
    with pytest.raises(UserError, match=f"cannot measure {here.name}: it lacks avx1024"):
        tune(replace(here, host=needs), SMALL, log_dir=tmp_path)
    assert not list(tmp_path.iterdir())


# What failed before


def keep_failures(log: TuningLog, layer: Layer, schedules: list[Schedule], failure: str) -> None:
    log.open_for_writing()
    for schedule in schedules:
        log.append(Measurement(layer, schedule, None, None, failure))


@pytest.mark.parametrize(
    ("failure", "again"),
    [
        ("wrong numbers: relative error 1.0e+00", False),
        ("timeout: no answer within 20 s", False),
        ("crash: the process ended with SIGSEGV.", False),
        ("error: UserError: ld.lld failed (_run in link.py:43)", True),
        ("link: no board is left", True),
        ("upload: the board cannot load it", True),
    ],
)
def test_what_failed_is_not_chosen(here: Target, tmp_path: Path, failure: str, again: bool) -> None:
    """Nor is it tried again, unless it was not the candidate that failed."""
    layer = next(iter(SEARCHED))
    space, log = space_of(layer, here), TuningLog.of(here, tmp_path)
    keep_failures(log, layer, space[:3], failure)
    slow = Measurement(layer, space[3], 1e9, 0.0, None)
    log.append(slow)
    (search,) = known_layers([layer, layer], here, log)
    assert search.best == slow
    assert search.near_best(9, 1e9) == [slow]
    assert search.unmeasured() == (space[:3] if again else []) + space[4:]


def test_a_point_that_left_the_space_is_not_chosen(here: Target, tmp_path: Path) -> None:
    layer = next(layer for layer in SEARCHED if layer.operator == "pwconv")
    log = TuningLog.of(here, tmp_path)
    log.open_for_writing()
    stale = replace(default_schedule(layer, here), tile_m=here.vector.registers + 1)  # type: ignore[call-arg]
    log.append(Measurement(layer, stale, 1e-3, 0.0, None))
    (search,) = known_layers([layer], here, log)
    assert search.best is None
    assert search.times == {}


def test_only_failures_in_the_log_are_an_error(here: Target, tmp_path: Path) -> None:
    layer = next(layer for layer in LAYERS if layer.operator == "avgpool")
    space, log = space_of(layer, here), TuningLog.of(here, tmp_path)
    keep_failures(log, layer, space, "wrong numbers: relative error 2.0e-01")
    with pytest.raises(
        UserError, match="nothing could be measured; first failure, in the log"
    ) as e:
        tune(here, SMALL, layer=layer.name, log_dir=tmp_path)
    assert f"{layer.name}, {space[0]}: wrong numbers: relative error 2.0e-01" in str(e.value)
    assert len(lines_of(log)) == len(space)
    assert log.records() == []


def test_no_time_at_all_is_an_error(here: Target, tmp_path: Path) -> None:
    log, output = TuningLog.of(here, tmp_path), StringIO()
    searches = known_layers(LAYERS, here, log)
    with (
        Progress(Console(file=output), 0.0) as progress,
        pytest.raises(UserError, match="nothing could be measured; the time budget was used up"),
    ):
        search_layers(searches, here, log, trials=1, seed=0, reserve_s=0.0, progress=progress)
    assert "the time budget is used up" in output.getvalue()


# One candidate


def test_candidate_with_right_numbers_is_timed(here: Target, tmp_path: Path) -> None:
    for number, layer in enumerate(sorted(SEARCHED, key=lambda layer: layer.name)):
        schedule = default_schedule(layer, here)
        library = build_candidate(layer, schedule, here.name, tmp_path / f"{number}.so")
        timing = measure_candidate(layer, schedule, library)
        assert timing.median_us is not None and timing.median_us > 0
        assert timing.max_error <= TOLERANCE
    assert {path.suffix for path in tmp_path.iterdir()} == {".so"}


def test_candidate_with_wrong_numbers_is_not_timed(here: Target, tmp_path: Path) -> None:
    """A library that reads its weights in another order than they are packed in."""
    layer = next(layer for layer in SEARCHED if layer.operator == "pwconv")
    space = space_of(layer, here)
    built = space[0]
    other = next(s for s in space if s.panel != built.panel)
    library = build_candidate(layer, built, here.name, tmp_path / "candidate.so")
    timing = measure_candidate(layer, other, library)
    assert timing.median_us is None
    assert TOLERANCE < timing.max_error < float("inf")


class LastTileForgotten(Depthwise):
    """A kernel that does one task too few."""

    def tasks(self, layer: Layer) -> int:
        return super().tasks(layer) - 1


def test_candidate_that_leaves_outputs_unwritten_is_not_timed(here: Target, tmp_path: Path) -> None:
    """Not even where the reference is zero there, which fresh memory often is."""
    layer = Layer("dwconv", 1, 8, 8, 16, 16)
    schedule = LastTileForgotten(**default_schedule(layer, here).to_json())  # type: ignore[arg-type]
    library = build_candidate(layer, schedule, here.name, tmp_path / "candidate.so")
    timing = measure_candidate(layer, schedule, library)
    assert (timing.median_us, timing.max_error) == (None, float("inf"))


# A copy of the package, something in it broken


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with the package and the targets, to be changed."""
    folder = tmp_path / "copy"
    ignore = shutil.ignore_patterns("__pycache__", "tuning_logs")
    shutil.copytree(Path(mnv2_tvm.__file__).parent, folder / "mnv2_tvm", ignore=ignore)
    shutil.copytree(data_folder("targets"), folder / "targets", dirs_exist_ok=True)
    return folder


def tune_copy(package: Path, target: Target, *options: object) -> Any:
    """`python -m mnv2_tvm.tune` of the copy; -P: not of the package in the working directory."""
    command = ["-P", "-m", "mnv2_tvm.tune", "--target", target.name, *SIZE, *map(str, options)]
    return run_python(*command, PYTHONPATH=str(package))


def test_nothing_could_be_measured(here: Target, package: Path, tmp_path: Path) -> None:
    """Every link fails; the next search, on a mended machine, tries all of them again."""
    toml = package / "targets" / f"{here.name}.toml"
    text = toml.read_text()
    assert text.count(f'"{here.link.emulation}"') == 1
    toml.write_text(text.replace(f'"{here.link.emulation}"', '"elf_x87"'))
    options = ["--layer", GLOB, "--trials", 2, "--log-dir", tmp_path]
    done = tune_copy(package, here, *options)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    error = done.stderr[done.stderr.index("error: nothing could be measured") :]
    assert "first failure: f32-" in error
    assert "ld.lld failed" in error and "elf_x87" in error

    log = TuningLog.of(here, tmp_path)
    measurements = parsed(lines_of(log))
    assert len(measurements) == 2 * len(SEARCHED)
    assert all("elf_x87" in (m.failure or "") for m in measurements)
    assert not (log.folder / RECORDS).exists()
    assert all(search.times == {} for search in known_layers(LAYERS, here, log))


def test_wrong_candidates_are_never_kept(here: Target, package: Path, tmp_path: Path) -> None:
    """A third of the pointwise space forgets ReLU6, and is as fast as the rest."""
    pixels = [one for one in LAYERS if one.operator == "pwconv" and one.height == 1]
    layer = next(one for one in pixels if one.epilogue == "relu6")
    space = space_of(layer, here)
    wrong = {schedule for schedule in space if schedule.unroll_k == 4}  # type: ignore[attr-defined]
    assert 0 < len(wrong) < len(space)
    with (package / "mnv2_tvm" / "kernels" / "__init__.py").open("a") as file:
        file.write(
            "\n_body = Pointwise.body\n\n"
            "def _broken(self, layer, target, operands):\n"
            "    epilogue = 'linear' if self.unroll_k == 4 else layer.epilogue\n"
            "    from dataclasses import replace\n"
            "    _body(self, replace(layer, epilogue=epilogue), target, operands)\n\n"
            "Pointwise.body = _broken\n"
        )
    options = ["--layer", layer.name, "--trials", 2 * TRIALS, "--log-dir", tmp_path]
    done = tune_copy(package, here, *options)
    assert done.returncode == 0, done.stderr
    log = TuningLog.of(here, tmp_path)
    measurements = parsed(lines_of(log))
    assert_nothing_twice(measurements)
    failed = {m.schedule for m in measurements if m.failure}
    assert failed == wrong & {m.schedule for m in measurements}
    assert failed
    assert all(
        m.failure.startswith("wrong numbers: relative error ") for m in measurements if m.failure
    )
    assert f"{len(measurements) - len(failed)} candidates measured" in done.stdout
    assert f"{len(failed)} failed" in done.stdout
    (record,) = log.records()
    assert record.schedule not in wrong


# Ends that nobody planned


@pytest.fixture
def quit_by_interrupt() -> Iterator[None]:
    """Ctrl-C must reach the children even where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@dataclass
class Session:
    """`python -m mnv2_tvm.tune` as the leader of a session, as a terminal would start it."""

    process: "subprocess.Popen[bytes]"
    scratch: Path
    output: Path

    @classmethod
    def start(cls, target: Target, log_dir: Path, tmp_path: Path) -> "Session":
        scratch, output = tmp_path / "scratch", tmp_path / "output"
        scratch.mkdir()
        command = [sys.executable, "-m", "mnv2_tvm.tune", "--target", target.name, *SIZE]
        options = ["--layer", GLOB, "--trials", str(TRIALS), "--log-dir", str(log_dir)]
        package = str(Path(mnv2_tvm.__file__).parents[1])
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [*command, *options],
                env={**os.environ, "PYTHONPATH": package, "TMPDIR": str(scratch)},
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        return cls(process, scratch, output)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.02)

    def kill(self, number: signal.Signals) -> int:
        """Signal all processes of the session, as a terminal does; the exit code of the leader."""
        os.killpg(self.process.pid, number)
        return self.process.wait(_PATIENCE_S)

    def living(self) -> list[str]:
        """Command lines of the session's processes that are not over."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.process.pid and state != "Z":
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    def assert_empty(self) -> None:
        """No process is left; helpers of Python and of the linker may take a moment to end."""
        deadline = time.monotonic() + 20
        while left := self.living():
            assert time.monotonic() < deadline, left
            time.sleep(0.05)


def test_killed_search_goes_on(here: Target, tmp_path: Path) -> None:
    log_dir = tmp_path / "logs"
    log = TuningLog.of(here, log_dir)
    session = Session.start(here, log_dir, tmp_path)
    session.wait_for(lambda: len(lines_of(log)) >= 4)
    assert session.kill(signal.SIGKILL) == -signal.SIGKILL
    session.assert_empty()
    kept = [line for line in lines_of(log) if line.endswith("\n")]
    assert 4 <= len(kept) < trials_of(here, TRIALS).total()
    assert_nothing_twice(parsed(kept))
    assert log.records() == []

    report = tune(here, SMALL, layer=GLOB, trials=TRIALS, log_dir=log_dir)
    assert lines_of(log)[: len(kept)] == kept
    measurements = log.measurements()
    assert_nothing_twice(measurements)
    assert Counter(m.layer for m in measurements) == trials_of(here, TRIALS)
    assert report.tally.measured == len(measurements) - len(kept)
    assert {record.layer for record in log.records()} == SEARCHED


@pytest.mark.parametrize("when", ["children start", "candidates", "network"])
@pytest.mark.usefixtures("quit_by_interrupt")
def test_interrupted_search_keeps_its_measurements(
    here: Target, tuned: Tuned, tmp_path: Path, when: str
) -> None:
    log_dir = tmp_path / "logs"
    log = TuningLog.of(here, log_dir)
    if when == "network":  # all candidates are known, so it starts with the last pass
        shutil.copytree(tuned.log_dir, log_dir)
    session = Session.start(here, log_dir, tmp_path)
    conditions: dict[str, Callable[[], bool]] = {
        "children start": lambda: len(session.living()) >= 3,
        "candidates": lambda: len(lines_of(log)) >= 2,
        "network": lambda: any(session.scratch.glob("mnv2-*/0")),
    }
    session.wait_for(conditions[when])
    assert session.kill(signal.SIGINT) == 130
    session.assert_empty()
    output = session.output.read_text()
    assert "Traceback" not in output
    assert "KeyboardInterrupt" not in output
    assert not list(session.scratch.iterdir())
    lines = lines_of(log)
    assert all(line.endswith("\n") for line in lines)
    assert_nothing_twice(parsed(lines))
    if when != "children start":
        assert len(lines) >= 2


# The cost model


def synthetic_time(schedule: Any, target: Target, layer: Layer) -> float:
    """A speed that follows from the decisions: full registers and few left-over rows are fast."""
    waste = -layer.height * layer.width % schedule.tile_m
    registers = schedule.registers(layer, target)
    return (40 - registers) * (1 + 0.1 * waste) * (1.3 if schedule.order == "mn" else 1.0)


def rank_correlation(target: Target, layer: Layer, ranked: list[Schedule]) -> float:
    """Spearman's, between the order of a ranking and the true times."""
    times = np.array([synthetic_time(schedule, target, layer) for schedule in ranked])
    places = np.argsort(np.argsort(times, kind="stable"))
    return float(np.corrcoef(places, np.arange(len(ranked)))[0, 1])


def measured(target: Target, layer: Layer, schedules: list[Schedule]) -> list[Measurement]:
    times = [synthetic_time(schedule, target, layer) for schedule in schedules]
    return [
        Measurement(layer, schedule, median_us, 0.0, None)
        for schedule, median_us in zip(schedules, times, strict=True)
    ]


@pytest.fixture
def pointwise() -> list[Layer]:
    """Layers with large spaces, of one kernel."""
    layers = network_layers(SourceNetwork.make(Architecture(1.0, 224), None, 0).relax())
    return [layer for layer in dict.fromkeys(layers) if layer.operator == "pwconv"][:6]


def shuffled(target: Target, layer: Layer) -> list[Schedule]:
    space = space_of(layer, target)
    random.Random(1).shuffle(space)
    return space


def test_model_ranks_what_it_has_not_seen(target: Target, pointwise: list[Layer]) -> None:
    """Other points of the same layer, and points of another layer, with a wide margin to chance."""
    *known, new = pointwise
    model = CostModel(target, seed=0)
    rows = []
    for layer in known:
        space = shuffled(target, layer)
        rows += measured(target, layer, space[: len(space) // 2])
    model.fit(rows)
    space = shuffled(target, known[0])
    unseen = space[len(space) // 2 :]
    ranked = model.rank(known[0], unseen)
    assert sorted(map(str, ranked)) == sorted(map(str, unseen))
    assert rank_correlation(target, known[0], unseen) < 0.5
    assert rank_correlation(target, known[0], ranked) > 0.8
    assert rank_correlation(target, new, model.rank(new, shuffled(target, new))) > 0.6


def test_model_learns_nothing_from_failures(target: Target, pointwise: list[Layer]) -> None:
    layer = pointwise[0]
    space = shuffled(target, layer)
    failures = [Measurement(layer, schedule, None, None, "crash: x") for schedule in space]
    alone, beside = CostModel(target, seed=0), CostModel(target, seed=0)
    alone.fit(measured(target, layer, space[:30]))
    beside.fit(failures + measured(target, layer, space[:30]))
    assert beside.rank(layer, space) == alone.rank(layer, space) != space


def test_model_with_too_few_rows_leaves_the_order(target: Target, pointwise: list[Layer]) -> None:
    layer = pointwise[0]
    space = shuffled(target, layer)
    model = CostModel(target, seed=0)
    assert model.rank(layer, space) == space
    model.fit([])
    model.fit(measured(target, layer, space[:15]))
    assert model.rank(layer, space) == space
    model.fit(measured(target, layer, space[:16]))
    assert model.rank(layer, space) != space
    assert model.rank(layer, []) == []


def test_features_are_finite_numbers_of_one_length(target: Target) -> None:
    layers = network_layers(SourceNetwork.make(Architecture(1.0, 224), None, 0).relax())
    assert {layer.operator for layer in layers} == {"conv", "dwconv", "pwconv", "avgpool"}
    lengths = set()
    for layer in dict.fromkeys(layers):
        space = space_of(layer, target)
        rows = [features(layer, point, target) for point in (space[0], space[-1])]
        rows.append(features(layer, default_schedule(layer, target), target))
        assert all(isfinite(value) for row in rows for value in row)
        lengths |= set(map(len, rows))
        assert len(space) == 1 or rows[0] != rows[1], "the model could not tell them apart"
    assert len(lengths) == 1


# When a layer is done


def test_a_layer_is_done_after_its_trials_or_without_gain(here: Target) -> None:
    layer = next(iter(SEARCHED))
    space = space_of(layer, here)
    search = LayerSearch(layer, space, space[0])
    assert not search.done(trials=1)
    assert len(space) > 2
    search.times = {m.schedule: m for m in measured_alike(layer, space[:2])}
    assert search.done(trials=2) and not search.done(trials=3)
    search.idle_batches = 2
    assert search.done(trials=3)
    search.idle_batches = 0
    search.times = {m.schedule: m for m in measured_alike(layer, space)}
    assert search.done(trials=len(space) + 100)
    assert search.unmeasured() == []


def measured_alike(layer: Layer, schedules: list[Schedule]) -> list[Measurement]:
    return [Measurement(layer, schedule, 1.0, 0.0, None) for schedule in schedules]
