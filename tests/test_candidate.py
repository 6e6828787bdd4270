"""One candidate, built and measured: only one with right numbers is timed."""

from pathlib import Path

from small_search import SEARCHED, space_of

from mnv2_tvm.kernels.depthwise import Depthwise
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.candidate import build_candidate, measure_candidate
from mnv2_tvm.numbers import TOLERANCE
from mnv2_tvm.pipeline import default_schedule
from mnv2_tvm.target import Target


def test_candidate_with_right_numbers_is_timed(here: Target, tmp_path: Path) -> None:
    for number, layer in enumerate(sorted(SEARCHED, key=lambda layer: layer.name)):
        schedule = default_schedule(layer, here)
        library = build_candidate(layer, schedule, here, tmp_path / f"{number}.so")
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
    library = build_candidate(layer, built, here, tmp_path / "candidate.so")
    timing = measure_candidate(layer, other, library)
    assert timing.median_us is None
    assert TOLERANCE < timing.max_error < float("inf")


class LastTileForgotten(Depthwise):
    """A kernel that does one task too few."""

    def tasks(self, layer: Layer) -> int:
        return super().tasks(layer) - 1


def test_candidate_that_leaves_outputs_unwritten_is_not_timed(here: Target, tmp_path: Path) -> None:
    """Not even where the reference is zero there, which fresh memory often is."""
    layer = Layer.of("dwconv", 1, 8, 8, 16, 16)
    schedule = LastTileForgotten(**default_schedule(layer, here).to_json())  # type: ignore[arg-type]
    library = build_candidate(layer, schedule, here, tmp_path / "candidate.so")
    timing = measure_candidate(layer, schedule, library)
    assert (timing.median_us, timing.max_error) == (None, float("inf"))
