"""Which whole networks the last pass of the search builds, and what their profiles decide."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import prod
from pathlib import Path

import numpy as np

from mnv2_tvm.deploy.build import build
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.search.layers import LayerSearch
from mnv2_tvm.target import Target

_VARIANTS = 6  # with the near-best of every layer
_FUSED = 6  # with the near-best of every block
_NEAR = 1.15  # of the best time alone

Choice = dict[Layer, Schedule | None]  # None: a block is done layer by layer
Network = tuple[Target, Architecture, int, int]  # and seed, threads
Samples = dict[Layer, list[float]]  # microseconds, one for each run; repeats of a layer averaged


def build_variant(schedules: Choice, network: Network, folder: Path) -> Path:
    """A worker's job: build the network with these schedules; other layers have defaults."""
    target, architecture, seed, threads = network
    source = SourceNetwork.make(architecture, None, seed)
    build(target, source, folder, threads=threads, decisions=Decisions(target, schedules))
    return folder


def samples_of(manifest: Manifest, seconds: np.ndarray) -> Samples:
    """The times of each distinct layer from those [run, layer] of the whole network."""
    columns: dict[Layer, list[int]] = defaultdict(list)
    for number, row in enumerate(manifest.layers):
        columns[Layer.parse(row["name"])].append(number)
    return {
        layer: (1e6 * seconds[:, which].mean(axis=1)).tolist() for layer, which in columns.items()
    }


@dataclass(frozen=True)
class Kept:
    """The schedule that a layer keeps, and its times inside the network in microseconds.

    None for a block that is slower than its layers; the times are their sum.
    """

    schedule: Schedule | None
    samples_us: tuple[float, float, float]  # 10th, 50th and 90th percentile


def variants(
    searches: Sequence[LayerSearch], blocks: Sequence[Layer], base: Decisions
) -> list[Choice]:
    """Variant i takes the i-th best of every layer, the last one its default.

    Those of the blocks come after all others.
    """
    layers = [search for search in searches if search.layer not in blocks]
    fused = [search for search in searches if search.layer in blocks]
    apart: Choice = {**base.tuned, **dict.fromkeys(blocks)}
    result: list[Choice] = [
        {**apart, **choice} for choice in _ranked(layers, base, _VARIANTS) or [{}]
    ]
    if fused:
        result += [{**result[0], **choice} for choice in _ranked(fused, base, _FUSED)]
    return result


def likely_first(wanted: Sequence[Choice], blocks: Collection[Layer]) -> list[int]:
    """The numbers of the variants, those first that are likely to be kept.

    Without a variant that has a block fused nothing is known of it, so these take turns with those
    that have none.
    """
    fused = [any(choice.get(block) is not None for block in blocks) for choice in wanted]
    each = [[n for n, one in enumerate(fused) if one == kind] for kind in (False, True)]
    return [n for turn in zip_longest(*each) for n in turn if n is not None]


def _ranked(searches: Sequence[LayerSearch], base: Decisions, count: int) -> list[Choice]:
    near: dict[Layer, list[Schedule | None]] = {}
    for search in searches:
        schedules: list[Schedule | None] = [m.schedule for m in search.near_best(count, _NEAR)]
        if search.default_is_right and search.default not in schedules:
            schedules.append(search.default)
        near[search.layer] = schedules or [base(search.layer)]
    most = max((len(schedules) for schedules in near.values()), default=0)
    return [
        {layer: schedules[min(i, len(schedules) - 1)] for layer, schedules in near.items()}
        for i in range(most)
    ]


def choose(
    searches: Sequence[LayerSearch],
    profiled: Sequence[tuple[Choice, Samples]],
    fused: Collection[Layer] = (),
) -> dict[Layer, Kept]:
    """What was fastest inside the network; a block against the sum of its layers.

    The blocks in `fused` keep their fastest kernel even where their layers are faster. What no
    variant had has no choice.
    """
    layers = {layer for _, samples in profiled for layer in samples}
    best = {layer: _fastest(layer, profiled) for layer in layers}
    chosen = {}
    for search in searches:
        layer = search.layer
        kept = best.get(layer)
        apart = [best[part] for part in layer.parts if part in best]
        if kept and len(apart) == len(layer.parts) > 1 and layer not in fused:
            low, middle, high = (sum(p.samples_us[i] for p in apart) for i in range(3))
            if kept.samples_us[1] > middle:
                kept = Kept(None, (round(low, 3), round(middle, 3), round(high, 3)))
        if kept:
            chosen[layer] = kept
    return chosen


def memory_savers(blocks: Sequence[Layer]) -> set[Layer]:
    """The blocks whose layers one by one need more workspace than every block as one kernel."""
    room = max((_operand_floats(block) for block in blocks), default=0)
    return {block for block in blocks if _floats_apart(block) > room}


def _floats_apart(block: Layer) -> int:
    kept = prod(block.input_shape) if block.epilogue == "residual" else 0
    expand, *others = block.parts
    return max(_operand_floats(expand), *(kept + _operand_floats(part) for part in others))


def _operand_floats(layer: Layer) -> int:
    """Of input and output; the image of a stem is not in the workspace."""
    image = layer.operator in ("stem", "conv")
    return prod(layer.output_shape) + (0 if image else prod(layer.input_shape))


def _fastest(layer: Layer, profiled: Sequence[tuple[Choice, Samples]]) -> Kept:
    options: Mapping[Schedule | None, list[float]] = {
        choice.get(layer): samples[layer] for choice, samples in profiled if layer in samples
    }
    schedule = min(options, key=lambda option: float(np.median(options[option])))
    low, middle, high = np.percentile(options[schedule], (10, 50, 90)).round(3).tolist()
    return Kept(schedule, (low, middle, high))
