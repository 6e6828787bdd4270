"""TVM's entry of a library: the same bits, and no other arguments."""

from typing import Any

import numpy as np
import pytest
import tvm
from conftest import ODD, TINY, BuildOnce, Built

from mnv2_tvm import load
from mnv2_tvm.deploy.loader import LIBRARY
from mnv2_tvm.model import Architecture


def on_tensors(built: Built) -> tuple[Any, Any, Any, Any]:
    """The packed function and tensors for input, output and workspace."""
    function = tvm.runtime.load_module(str(built.folder / LIBRARY))["mnv2_run"]
    images = tvm.runtime.tensor(built.network.images(seed=5))
    output = tvm.runtime.tensor(np.full(built.manifest.output_shape, np.nan, np.float32))
    workspace = tvm.runtime.tensor(np.zeros(built.manifest.workspace_bytes, np.uint8))
    return function, images, output, workspace


@pytest.mark.parametrize("architecture", [TINY, ODD], ids=["32", "47-batch-2"])
def test_tvms_entry_computes_the_same_bits(
    architecture: Architecture, build_once: BuildOnce
) -> None:
    built = build_once(architecture)
    function, images, output, workspace = on_tensors(built)
    function(images, output, workspace)
    np.testing.assert_array_equal(output.numpy(), load(built.folder)(images.numpy()))


def test_tvms_entry_refuses_wrong_arguments(tiny: Built) -> None:
    function, images, output, workspace = on_tensors(tiny)

    def small(tensor: Any) -> Any:
        array = tensor.numpy().reshape(-1)
        return tvm.runtime.tensor(array[:-1])

    for arguments in (
        (),
        (images, output),
        (images, output, workspace, workspace),
        (images, output, 0),
        (images, "output", workspace),
        (None, output, workspace),
        (small(images), output, workspace),
        (images, small(output), workspace),
        (images, output, small(workspace)),
    ):
        with pytest.raises(ValueError, match="mnv2_run"):
            function(*arguments)
    assert np.isnan(output.numpy()).all()


def test_tvms_entry_refuses_other_types(tiny: Built) -> None:
    function, images, output, workspace = on_tensors(tiny)
    for kind in (np.float64, np.int32):
        with pytest.raises(ValueError, match="mnv2_run"):
            function(tvm.runtime.tensor(images.numpy().astype(kind)), output, workspace)
