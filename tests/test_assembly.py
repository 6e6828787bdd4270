"""What LLVM makes of the default schedules, read from the assembly of every target."""

import pytest

from mnv2_tvm.assembly import InnerLoop, assembly, hot_loop, inner_loops
from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.pipeline import default_schedule, network_blocks, network_layers
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.target import Target

NETWORK = SourceNetwork.make(Architecture(), None, 0)
LAYERS = [
    layer
    for layer in dict.fromkeys(network_layers(NETWORK.relax()))
    if layer.operator != "avgpool"  # it has no multiplication
]
BLOCKS = list(dict.fromkeys(network_blocks(NETWORK.relax())))
# aarch64 and android-dotprod have the schedules of rasp3, and LLVM's generic CPU as it has.
ARM = ("rasp3", "rasp4", "rasp4-32", "rasp5", "android")


@pytest.mark.parametrize("name", [*ARM, "x86-avx2", "x86-avx512"])
def test_inner_loops_are_fused_multiply_adds(name: str) -> None:
    """All arithmetic of the products; a depthwise tile has two bounds of ReLU6 to nine FMAs."""
    target = Target.load(name)
    for layer in LAYERS:
        loop = hot_loop(layer, default_schedule(layer, target), target)
        assert loop is not None, layer.name
        least = 0.8 if layer.operator == "dwconv" else 0.9
        assert loop.fma_share >= least, (layer.name, loop)
        # On x86 a spilled weight is as good as any: an operand that an FMA reads from memory.
        assert loop.spills == 0 or target.vector.memory_operands, (layer.name, loop)


@pytest.mark.parametrize("name", ARM)
def test_inner_loops_of_fused_blocks_are_fused_multiply_adds(name: str) -> None:
    """All of them, of each part: expansion, depthwise, and projection."""
    target = Target.load(name)
    decisions = Decisions(target, {})
    fused = {block: schedule for block in BLOCKS if (schedule := decisions(block)) is not None}
    assert fused
    for block, schedule in fused.items():
        loops = [loop for loop in inner_loops(assembly(block, schedule, target)) if loop.fmas]
        assert len(loops) >= len(block.parts), block.name
        for loop in loops:
            assert loop.spills == 0, (block.name, loop)
            assert loop.fma_share >= 0.8, (block.name, loop)


def test_spills_are_seen() -> None:
    """More accumulators than registers: LLVM must go through the stack, and we must see it."""
    target = Target.load("rasp4")
    layer = Layer.parse("f32-pwconv-14x14x96-576")
    fitting = default_schedule(layer, target)
    greedy = type(fitting).from_json(fitting.to_json() | {"tile_m": 14, "tile_n": 16})
    loop = hot_loop(layer, greedy, target)
    assert loop is not None and loop.spills > 0


@pytest.mark.parametrize(
    ("lines", "spills"),
    [
        ("str\tq0, [sp, #16]", 1),
        ("mov\tx29, x17\n\tldr\tq0, [x29]", 0),
        ("mov\tx29, sp\n\tldr\tq0, [x29, #32]", 1),
        ("add\tr11, sp, #88\n\tvldmia\tr11, {d22, d23}", 1),
        ("add\tr11, sp, #88\n\tadd\tr11, r1, #4\n\tvldmia\tr11, {d22, d23}", 0),
        ("vfmadd231ps\t-64(%rsp), %zmm0, %zmm1", 1),
        ("movq\t-40(%rsp), %rcx\n\tvmovups\t(%rcx), %zmm0", 0),
        ("leaq\t64(%rsp), %rcx\n\tvmovups\t(%rcx), %zmm0", 1),
    ],
)
def test_spills_go_through_whatever_points_to_the_stack(lines: str, spills: int) -> None:
    text = f".LBB0_1:\n\t{lines}\n\tjne\t.LBB0_1"
    assert [loop.spills for loop in inner_loops(text)] == [spills]


def test_only_innermost_loops_count() -> None:
    text = "\n".join(
        [
            ".LBB0_1:",
            "\tvaddps\t%ymm1, %ymm2, %ymm3",
            ".LBB0_2:",
            "\tvfmadd231ps\t(%rsi), %ymm0, %ymm1",
            "\tvmovups\t%ymm1, 32(%rsp)",
            "\tjne\t.LBB0_2",
            "\tjne\t.LBB0_1",
        ]
    )
    assert inner_loops(text) == [InnerLoop(fmas=1, other_arithmetic=0, spills=1)]
