"""What the tests of weights share: a state, timm's names for it, and what reading a file gives."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from mnv2_tvm.errors import UserError
from mnv2_tvm.model import Architecture, random_state, read_weights

TINY = Architecture(0.35, 32, classes=10)
State = dict[str, torch.Tensor]


def torch_state(seed: int, architecture: Architecture = TINY) -> State:
    """Random weights as torch's tensors."""
    state = random_state(architecture, seed)
    return {key: torch.as_tensor(value) for key, value in state.items()}


def timm_key(key: str) -> str:
    """timm's name of torchvision's key, written out apart from the package's own table."""
    stages = [(s, i) for s, blocks in enumerate((1, 2, 3, 4, 3, 3, 1)) for i in range(blocks)]
    head, leaf = key.rsplit(".", 1)
    fixed = {
        "features.0.0": "conv_stem",
        "features.0.1": "bn1",
        "features.18.0": "conv_head",
        "features.18.1": "bn2",
        "classifier.1": "classifier",
    }
    if head in fixed:
        return f"{fixed[head]}.{leaf}"
    _, block, _, inner = head.split(".", 3)
    separable = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
    inverted = {
        "0.0": "conv_pw",
        "0.1": "bn1",
        "1.0": "conv_dw",
        "1.1": "bn2",
        "2": "conv_pwl",
        "3": "bn3",
    }
    stage, index = stages[int(block) - 1]
    name = (separable if block == "1" else inverted)[inner]
    return f"blocks.{stage}.{index}.{name}.{leaf}"


def as_timm(state: State) -> State:
    return {timm_key(key): tensor for key, tensor in state.items()}


def under(prefix: str, state: State) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def assert_loads(path: Path, state: Mapping[str, torch.Tensor], key: str | None = None) -> None:
    """The file, or the network `key` in it, gives exactly the numbers of `state`."""
    arrays = read_weights(path, TINY, key).arrays
    assert list(arrays) == list(TINY.state_shapes())
    for name, array in arrays.items():
        if name.endswith("num_batches_tracked"):
            assert (array.dtype, array.shape, int(array)) == (np.int64, (), 0)
            continue
        assert array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable
        assert np.array_equal(array, state[name].detach().to(torch.float32).numpy()), name


def refusal(
    path: Path,
    architecture: Architecture = TINY,
    key: str | None = None,
    named: Path | None = None,
) -> str:
    """The text of the error, which must name the file, or the one that is `named`."""
    with pytest.raises(UserError, match=re.escape(str(named or path))) as caught:
        read_weights(path, architecture, key)
    return str(caught.value)
