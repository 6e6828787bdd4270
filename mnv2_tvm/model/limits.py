"""What no library can address, told from the shapes alone, before anything is compiled.

What is fused is not known yet, so this counts only the tensors that every library has; the whole
workspace is held against the same limit when it is planned (`mnv2_tvm.passes.check_size`).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

from mnv2_tvm.model.convolution import Convolution

# TVM multiplies the extents of a tensor in int32 and does not notice when that wraps. An input of
# 2.5 GB, whose bytes are beyond int32, is read rightly.
MAX_ELEMENTS = 2**31 - 1
# The steps find their tensors in the workspace by int32 byte offsets, and a 32-bit machine has no
# larger object. Of 0.35 without fused blocks, 5952 x 5952 is right and 8192 x 8192 does not build.
# The input and the output do not count: they are pointers of their own.
MAX_WORKSPACE_BYTES = 2**31 - 1
# Code reaches weights by signed 32-bit distances: on x86-64 2^31 - 2^20 bytes of them link and
# 2^31 + 2^20 do not. What is left is more than any network's code takes.
MAX_WEIGHT_BYTES = 2**31 - 2**24

_MIB = 2**20


def excess(convolutions: Sequence[Convolution], batch: int) -> str | None:
    """What of this network is larger than any library can address; None if nothing is."""
    first, last = convolutions[0], convolutions[-1]
    weights = sum(prod(conv.weight_shape) + conv.out_channels for conv in convolutions)
    return excess_of(
        batch * first.height * first.width * first.in_channels,
        batch * last.out_elements,
        _least_workspace_bytes(convolutions, batch),
        4 * weights,
    )


def excess_of(
    input_elements: int, output_elements: int, workspace_bytes: int, weight_bytes: int
) -> str | None:
    """The same of a network of these sizes."""
    for name, elements in (("input", input_elements), ("output", output_elements)):
        if elements > MAX_ELEMENTS:
            return f"the {name} has more than {MAX_ELEMENTS} numbers"
    for name, size, limit in (
        ("workspace", workspace_bytes, MAX_WORKSPACE_BYTES),
        ("weights", weight_bytes, MAX_WEIGHT_BYTES),
    ):
        if size > limit:
            need = -(-size // _MIB)
            return f"the {name} would take {need} MiB, and can have {limit // _MIB} at most"
    return None


def largest(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The largest number from `low` to `high` that fits; 0 if none does. Smaller ones fit too."""
    if not fits(low):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _least_workspace_bytes(convolutions: Sequence[Convolution], batch: int) -> int:
    """The input and the output of the block that has most of both, as all others may be fused.

    The stem is fused with the first block at best, whose input is then the caller's.
    """
    outputs = {conv.block: conv.out_elements for conv in convolutions[:-1]}
    del outputs[convolutions[0].block]
    return 4 * batch * max(x + y for x, y in pairwise(outputs.values()))
