"""NaN and infinities: every kernel, and a whole network, makes of them what torch does."""

import random
from dataclasses import replace

import numpy as np
import pytest
from conftest import Built
from kernel_layers import block_layers, tile_layers
from kernel_runner import Floats, KernelLibrary, Operands, torch_result

from mnv2_tvm import load
from mnv2_tvm.dtype import F32
from mnv2_tvm.kernels import default_schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target

WAYS = ["second", "nan", "number"]  # to ReLU6, as machines have it


def with_way(here: Target, way: str) -> Target:
    """This host as if its maximum were another machine's; one that drops NaN has scalars alone."""
    lanes_bytes = 4 if way == "number" else here.vector.bytes
    vector = replace(here.vector, bytes=lanes_bytes, max_of_nan=way)  # type: ignore[arg-type]
    return replace(here, vector=vector)


def layers(lanes: int) -> list[Layer]:
    """One of each operator and epilogue."""
    every = tile_layers(lanes) + block_layers(lanes)
    return list({(layer.operator, layer.epilogue): layer for layer in every}.values())


def spoilt(values: Floats, *specials: float) -> Floats:
    """A copy with each of the special values somewhere."""
    copy = values.copy()
    places = random.Random(0).sample(range(copy.size), min(len(specials), copy.size))
    for place, special in zip(places, specials, strict=False):
        copy.reshape(-1)[place] = special
    return copy


def check(kernels: KernelLibrary, operands: Operands) -> int:
    """Compare with torch; how many results are NaN."""
    wanted = torch_result(kernels.layer, operands)
    tolerance = 2e-6 * float(np.abs(wanted[np.isfinite(wanted)]).max(initial=1.0))
    result = kernels.run(0, operands)
    np.testing.assert_allclose(result, wanted, rtol=0, atol=tolerance, err_msg=kernels.layer.name)
    return int(np.isnan(wanted).sum())


@pytest.mark.parametrize("way", WAYS)
def test_every_kernel_keeps_nan_and_infinities(here: Target, way: str) -> None:
    target, found = with_way(here, way), 0
    for layer in layers(target.vector.lanes(F32)):
        if target.vector != here.vector and "relu6" not in {part.epilogue for part in layer.parts}:
            continue  # the same code
        schedule = default_schedule(layer, target)
        kernels, operands = KernelLibrary(layer, target, [schedule]), Operands.random(layer)
        for specials in ([np.nan], [-np.nan], [np.inf], [-np.inf], [np.inf, -np.inf, np.nan]):
            found += check(kernels, replace(operands, x=spoilt(operands.x, *specials)))
        if operands.residual is not None:
            found += check(kernels, replace(operands, residual=spoilt(operands.residual, np.nan)))
    assert found > 0


@pytest.mark.parametrize("everywhere", [False, True], ids=["one-value", "everywhere"])
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_a_network_gives_what_torch_gives(tiny: Built, special: float, everywhere: bool) -> None:
    images = spoilt(tiny.network.images(seed=1), special)
    if everywhere:
        images[:] = special
    with np.errstate(all="ignore"):
        wanted = tiny.network.reference(images)
    assert np.isnan(wanted).all() == (everywhere or np.isnan(special))
    np.testing.assert_allclose(load(tiny.folder)(images), wanted, rtol=1e-4, atol=1e-4)
