"""A kernel is one file and a word in KERNELS: here are two that only this test has."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pytest
from conftest import Built

import mnv2_tvm.kernels
from mnv2_tvm import load
from mnv2_tvm.build import build
from mnv2_tvm.dtype import F32
from mnv2_tvm.errors import UserError
from mnv2_tvm.host import this_host
from mnv2_tvm.kernels import Schedule, default_schedule
from mnv2_tvm.kernels.loops import tile_count, tile_loop
from mnv2_tvm.kernels.pointwise import Pointwise
from mnv2_tvm.kernels.registers import RegisterTile
from mnv2_tvm.kernels.registers import load as load_vector
from mnv2_tvm.kernels.schedule import Operands
from mnv2_tvm.kernels.spaces import search_space
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.candidate import Timing, build_candidate, measure_candidate
from mnv2_tvm.numbers import relative_error
from mnv2_tvm.pipeline import network_layers
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.records.entries import Measurement, Record
from mnv2_tvm.records.tuning_log import TuningLog
from mnv2_tvm.search.cost_model import CostModel
from mnv2_tvm.show import show
from mnv2_tvm.target import Target


@dataclass(frozen=True)
class OnePixel(Schedule):
    """A slow pointwise convolution: pixel after pixel, in either direction."""

    tile_n: int
    direction: Literal["forward", "backward"]

    @classmethod
    def computes(cls, layer: Layer) -> bool:
        return layer.operator == "pwconv" and layer.dtype == F32 and layer.epilogue != "residual"

    @classmethod
    def space(cls, layer: Layer, target: Target) -> list[Self]:
        return [cls(1, "forward"), cls(1, "backward"), cls(layer.out_channels, "forward")]

    @classmethod
    def default(cls, layer: Layer, target: Target) -> Self:
        return cls(1, "forward")

    def registers(self, layer: Layer, target: Target) -> int:
        return 2

    @property
    def panel(self) -> int:
        return self.tile_n

    def tasks(self, layer: Layer) -> int:
        return tile_count(layer.out_channels, self.tile_n)

    def body(self, layer: Layer, target: Target, operands: Operands) -> None:
        o, depth, pixels = operands, layer.in_channels, layer.batch * layer.height * layer.width
        for n, tile_n in tile_loop(layer.out_channels, self.tile_n, o.span, shared=True):
            for i, _ in tile_loop(pixels, 1, o.span):
                m = i if self.direction == "forward" else pixels - 1 - i
                acc = RegisterTile(1, tile_n, target.vector)
                acc.fill(lambda _, j, lanes, n=n: load_vector(o.bias, n + j, lanes))  # type: ignore[misc]
                for k, _ in tile_loop(depth, 1, o.span):
                    acc.multiply_add(
                        lambda _, m=m, k=k: o.x[m * depth + k],  # type: ignore[misc]
                        lambda j, lanes, n=n, k=k, w=tile_n: load_vector(  # type: ignore[misc]
                            o.weight, n * depth + k * w + j, lanes
                        ),
                    )
                place = m * layer.out_channels + n
                acc.store(o.y, lambda _, j, at=place: at + j, relu6=layer.epilogue == "relu6")  # type: ignore[misc]


class Twin(Pointwise):
    """The pointwise kernel of the package under another name: with decisions of the same names."""


LAYER = Layer.parse("f32-pwconv-4x4x16-24")


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    every = (*mnv2_tvm.kernels.KERNELS, OnePixel, Twin)
    monkeypatch.setattr(mnv2_tvm.kernels, "KERNELS", every)


def ours(target: Target, layer: Layer = LAYER) -> list[Schedule]:
    return [point for point in search_space(layer, target) if isinstance(point, OnePixel)]


def test_its_points_are_in_the_space_and_the_default_stays(target: Target) -> None:
    space = list(search_space(LAYER, target))
    assert [type(point) for point in ours(target)] == 3 * [OnePixel]
    assert sum(isinstance(p, Twin) for p in space) == sum(type(p) is Pointwise for p in space)
    assert type(default_schedule(LAYER, target)) is Pointwise
    assert not ours(target, Layer.parse("f32-dwconv-3x3s1-8x8x16"))
    assert not ours(target, Layer.parse("f32-pwconv-4x4x16-24-residual"))


def test_records_and_measurements_name_it(here: Target) -> None:
    for schedule in (ours(here)[1], Twin(1, 24, "nm", 1), Pointwise(1, 24, "nm", 1)):
        record = Record(LAYER, 1, schedule, 9.5, (9.0, 9.5, 9.9), 0.0)
        measurement = Measurement(LAYER, schedule, 9.5, 0.0, None)
        for entry, line in (
            (record, json.loads(record.to_json())),
            (measurement, json.loads(json.dumps(measurement.to_json()))),
        ):
            assert line["kernel"] == type(schedule).__name__
            read = type(entry).from_json(line)
            assert read == entry and type(read.schedule) is type(schedule)  # type: ignore[attr-defined]


def test_older_lines_are_of_the_first_kernel_that_fits(here: Target) -> None:
    def read(schedule: Schedule, **changes: Any) -> Schedule:
        line = Measurement(LAYER, schedule, 9.5, 0.0, None).to_json()
        del line["kernel"]
        return Measurement.from_json(line | changes).schedule

    assert type(read(Twin(1, 24, "nm", 1))) is Pointwise
    assert read(ours(here)[1]) == ours(here)[1]
    for kernel in ("Depthwise", "Threepixels", ""):
        with pytest.raises(UserError, match=f"no kernel {kernel}.*for {LAYER.name}"):
            read(ours(here)[1], kernel=kernel)
    with pytest.raises(UserError, match=r"'direction'.*are not.*'order'"):
        read(ours(here)[1], kernel="Twin")


def test_a_candidate_of_it_is_measured(here: Target, tmp_path: Path) -> None:
    for number, schedule in enumerate(ours(here)):
        library = build_candidate(LAYER, schedule, here, tmp_path / f"{number}.so")
        result = measure_candidate(LAYER, schedule, library)
        assert isinstance(result, Timing) and result.right, str(schedule)


def test_the_cost_model_tells_it_from_others_and_its_points_apart(here: Target) -> None:
    """The times below follow from the kernel, and in it from a decision that no other has."""

    def time_us(schedule: Schedule) -> float:
        if isinstance(schedule, OnePixel):
            return 2.0 if schedule.direction == "forward" else 1.0
        return 4.0 if isinstance(schedule, Twin) else 8.0

    space = list(search_space(LAYER, here))
    model = CostModel(here, seed=0)
    known = ours(here) * 8 + space[::2]
    model.fit(Measurement(LAYER, schedule, time_us(schedule), 0.0, None) for schedule in known)
    ranked = model.rank(LAYER, space)
    assert str(ranked[0]) == "tile_n=1 direction=backward"
    assert [time_us(schedule) for schedule in ranked[:3]] == [1.0, 2.0, 2.0]
    times = [time_us(schedule) for schedule in ranked]
    assert np.mean(times[: len(times) // 2]) < np.mean(times[len(times) // 2 :])


def test_a_network_with_it_has_the_right_numbers(here: Target, tiny: Built, tmp_path: Path) -> None:
    layers = [layer for layer in network_layers(tiny.network.relax()) if ours(here, layer)]
    log, cpu = TuningLog.of(here, tmp_path / "logs"), {"cpu": this_host().cpu}
    log.open_for_writing()
    log.keep(
        Record(layer, 1, ours(here, layer)[number % 3], 99.0, (1.0,), 0.0, cpu)
        for number, layer in enumerate(dict.fromkeys(layers))
    )
    decisions = Decisions.load(here, 1, tmp_path / "logs")
    manifest = build(here, tiny.network, tmp_path / "out", decisions=decisions)
    built = {layer["name"]: layer["kernel"] for layer in manifest.layers}
    assert {built[layer.name] for layer in layers} == {"OnePixel"}
    assert len(set(built.values())) > 3
    shown = show(layers[-1], here, log_dir=tmp_path / "logs")
    assert shown.schedule == decisions(layers[-1]) and "OnePixel" in str(shown.record)
    images = tiny.network.images(seed=1)
    wanted = tiny.network.reference(images)
    assert relative_error(load(tmp_path / "out")(images), wanted) < 1e-5
