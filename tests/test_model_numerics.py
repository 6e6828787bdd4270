"""The reference, folding and random weights against torch."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch_oracle import MobileNetV2, torch_logits, torch_network
from tvm import relax

from mnv2_tvm.model import (
    PUBLISHED,
    Architecture,
    fold_batch_norm,
    interpret,
    random_images,
    random_state,
    relax_module,
)
from mnv2_tvm.model.source import SourceNetwork

TINY = Architecture(0.35, 32, classes=10)
WIDTHS = sorted({width for width, _ in PUBLISHED})


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


def test_random_weights_depend_on_their_seed_alone() -> None:
    first, again, other = (random_state(TINY, seed) for seed in (0, 0, 1))
    assert list(first) == list(TINY.state_shapes())
    assert {key: array.shape for key, array in first.items()} == TINY.state_shapes()
    for key, array in first.items():
        np.testing.assert_array_equal(array, again[key])
        counter = key.endswith("num_batches_tracked")
        assert array.dtype == (np.int64 if counter else np.float32)
        assert counter or not np.array_equal(array, other[key])


@pytest.mark.parametrize(
    "architecture",
    [TINY, Architecture(0.35, 224), Architecture(1.0, 96)],
    ids=["tiny", "0.35-224", "1.0-96"],
)
def test_random_weights_let_the_image_through(architecture: Architecture) -> None:
    network = torch_network(architecture, random_state(architecture, 0))
    at_zero: list[float] = []
    at_six: list[float] = []

    def count(_module: torch.nn.Module, _input: torch.Tensor, y: torch.Tensor) -> None:
        at_zero.append(float((y == 0).float().mean()))
        at_six.append(float((y == 6).float().mean()))

    for module in network.modules():
        if isinstance(module, torch.nn.ReLU6):
            module.register_forward_hook(count)
    images = random_images(8, architecture.resolution, np.random.default_rng(99))
    with torch.inference_mode():
        x = torch.from_numpy(images.astype(np.float32).transpose(0, 3, 1, 2))
        logits = network(x).double()
    assert len(at_zero) == len(at_six) == 35
    assert 0.1 < min(at_zero) <= max(at_zero) < 0.5
    assert 0.005 < min(at_six) <= max(at_six) < 0.2
    # What stays of the power of the logits when what all images share is taken away.
    own = (logits - logits.mean(0)).square().sum() * 8 / 7
    assert own > logits.square().sum() / 2


def test_random_images_have_unit_variance_and_equal_octaves() -> None:
    images = random_images(64, 48, np.random.default_rng(0))
    assert images.shape == (64, 48, 48, 3)
    assert images.std() == pytest.approx(1, abs=0.05)
    # Means over ever larger cells lose one octave after the other: 48 is in 7 of them.
    means = [images.reshape(64, n, 48 // n, n, 48 // n, 3).mean((2, 4)) for n in (1, 2, 4, 8, 16)]
    power = [float(np.square(mean).mean()) for mean in means]
    for larger, smaller in pairwise(power):
        assert smaller - larger == pytest.approx(1 / 7, abs=0.08)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_reference_agrees_with_torch(width: float) -> None:
    """Two resolutions, one of them odd; torch has the BatchNorms as they are, and NCHW."""
    for architecture in (Architecture(width, 47, 7, batch=2), Architecture(width, 96)):
        source = SourceNetwork.make(architecture, None, 5)
        images = source.images(1)
        wanted = torch_logits(architecture, source.state, images)
        logits = interpret(source.relax("float64"), images)  # the whole batch at once
        assert logits.dtype == np.float64
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())
        np.testing.assert_allclose(source.reference(images), logits, rtol=1e-6)


def test_the_reference_keeps_nan_as_torch_does() -> None:
    source = SourceNetwork.make(TINY, None, 0)
    images = source.images(1)
    images[0, 5, 5, 1] = np.nan
    assert np.isnan(torch_logits(TINY, source.state, images)).all()
    assert np.isnan(source.reference(images)).all()


def test_the_reference_refuses_what_it_does_not_know() -> None:
    module = relax_module(TINY, fold_batch_norm(random_state(TINY, 0), TINY))
    with pytest.raises(ValueError, match="32, 32, 3"):
        interpret(module, np.zeros((1, 33, 32, 3)))
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 4), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(relax.op.exp(x))
        builder.emit_func_output(y)
    with pytest.raises(ValueError, match="exp"):
        interpret(builder.get(), np.zeros((1, 4)))


def test_relax_module_is_one_function_of_the_image_alone() -> None:
    module = relax_module(TINY, fold_batch_norm(random_state(TINY, 0), TINY))
    (main,) = module.functions.values()
    (argument,) = main.params
    assert argument.name == "input"
    assert [int(extent) for extent in argument.ty.shape] == [1, 32, 32, 3]
