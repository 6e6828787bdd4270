"""Folding and the Relax module against the torch reference."""

from typing import Any

import numpy as np
import pytest
import torch
import tvm
from tvm import relax

from mnv2_tvm.model import (
    Architecture,
    MobileNetV2,
    fold_batch_norm,
    random_state,
    relax_module,
)

TINY = Architecture(0.35, 32, classes=10)


def image(architecture: Architecture) -> np.ndarray[Any, np.dtype[np.float32]]:
    shape = architecture.input_shape
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)  # [n, y, x, c]


def arrays_of(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    return {key: tensor.numpy() for key, tensor in state.items()}


def torch_logits(
    architecture: Architecture, state: dict[str, torch.Tensor]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    network = MobileNetV2(architecture)
    network.load_state_dict(state)
    with torch.inference_mode():
        logits = network(torch.from_numpy(image(architecture).transpose(0, 3, 1, 2)))
    return np.asarray(logits.numpy())


def test_state_dict_has_the_314_keys_of_torchvision() -> None:
    """52 convolutions of 6 tensors each, and the classifier's 2; some keys as torchvision's."""
    state = MobileNetV2(Architecture()).state_dict()
    assert len(state) == 52 * 6 + 2 == 314
    known = {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.0.1.running_mean": (32,),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.0.1.weight": (32,),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.1.conv.2.num_batches_tracked": (),
        "features.2.conv.0.0.weight": (96, 16, 1, 1),
        "features.2.conv.1.0.weight": (96, 1, 3, 3),
        "features.2.conv.1.1.running_var": (96,),
        "features.2.conv.2.weight": (24, 96, 1, 1),
        "features.2.conv.3.bias": (24,),
        "features.17.conv.2.weight": (320, 960, 1, 1),
        "features.18.0.weight": (1280, 320, 1, 1),
        "features.18.1.bias": (1280,),
        "classifier.1.weight": (1000, 1280),
        "classifier.1.bias": (1000,),
    }
    assert {key: tuple(state[key].shape) for key in known} == known


def test_architecture_and_module_agree_on_every_shape_and_order() -> None:
    state = MobileNetV2(TINY).state_dict()
    assert [(key, tuple(tensor.shape)) for key, tensor in state.items()] == list(
        TINY.state_shapes().items()
    )


def test_parameters_are_the_modules() -> None:
    module = MobileNetV2(Architecture())
    assert sum(p.numel() for p in module.parameters()) == Architecture().parameters


def test_random_state_depends_on_its_seed_alone() -> None:
    torch.manual_seed(1)
    first = random_state(TINY, 0)
    before = torch.get_rng_state()
    again, other = random_state(TINY, 0), random_state(TINY, 1)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["features.0.0.weight"], other["features.0.0.weight"])


def test_random_state_keeps_activations_alive() -> None:
    network = MobileNetV2(Architecture(1.0, 64))
    network.load_state_dict(random_state(Architecture(1.0, 64), 0))
    outputs: list[torch.Tensor] = []
    for module in network.modules():
        if isinstance(module, torch.nn.ReLU6):
            module.register_forward_hook(lambda _module, _input, output: outputs.append(output))
    with torch.inference_mode():
        network(torch.from_numpy(image(Architecture(1.0, 64)).transpose(0, 3, 1, 2)))
    assert len(outputs) == 35
    for output in outputs:
        assert 0.1 < float(output.std()) < 3
        assert 0.2 < float((output == 0).float().mean()) < 0.8
        assert float((output == 6).float().mean()) < 0.2


def test_folded_convolution_equals_convolution_and_norm() -> None:
    state = random_state(TINY, 3)
    params = fold_batch_norm(arrays_of(state), TINY)
    conv = TINY.convolutions()[3]
    assert conv.norm is not None
    x = torch.randn(1, conv.in_channels, 5, 5, generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.batch_norm(
        torch.nn.functional.conv2d(x, state[f"{conv.name}.weight"]),
        running_mean=state[f"{conv.norm}.running_mean"],
        running_var=state[f"{conv.norm}.running_var"],
        weight=state[f"{conv.norm}.weight"],
        bias=state[f"{conv.norm}.bias"],
    )
    weight, bias = (torch.from_numpy(params[f"{conv.name}.{key}"]) for key in ("weight", "bias"))
    torch.testing.assert_close(torch.nn.functional.conv2d(x, weight, bias), wanted)


def test_folded_weights_are_float32_of_every_convolution() -> None:
    params = fold_batch_norm(arrays_of(random_state(TINY, 0)), TINY)
    shapes = {f"{conv.name}.weight": conv.weight_shape for conv in TINY.convolutions()}
    shapes |= {f"{conv.name}.bias": (conv.out_channels,) for conv in TINY.convolutions()}
    assert {name: array.shape for name, array in params.items()} == shapes
    assert {array.dtype for array in params.values()} == {np.dtype("float32")}


@pytest.mark.parametrize(
    "architecture",
    [TINY, Architecture(0.35, 47, classes=7), Architecture(0.5, 33, classes=1, batch=2)],
    ids=["resolution-32", "odd-47", "batch-2"],
)
def test_relax_module_computes_what_torch_does(architecture: Architecture) -> None:
    state = random_state(architecture, 5)
    module = relax_module(architecture, fold_batch_norm(arrays_of(state), architecture))
    machine = relax.VirtualMachine(
        relax.build(module, tvm.target.Target({"kind": "llvm"})), tvm.cpu()
    )
    logits = machine["main"](tvm.runtime.tensor(image(architecture))).numpy()
    wanted = torch_logits(architecture, state)
    assert logits.shape == wanted.shape == (architecture.batch, architecture.classes)
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_relax_module_is_one_function_of_the_image_alone() -> None:
    module = relax_module(TINY, fold_batch_norm(arrays_of(random_state(TINY, 0)), TINY))
    (main,) = module.functions.values()
    (argument,) = main.params
    assert argument.name == "input"
    assert [int(extent) for extent in argument.ty.shape] == [1, 32, 32, 3]
