"""The network as a Relax module in NHWC, with its weights as constants."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from mnv2_tvm.model.architecture import Architecture
from mnv2_tvm.model.convolution import Convolution

Params = Mapping[str, NDArray[np.floating]]


def relax_module(architecture: Architecture, params: Params) -> Any:
    """An IRModule with `main(input: [n, h, w, 3]) -> [n, classes]`, of the type of `params`.

    `params` is the result of `fold_batch_norm`. Variables bear the name of their convolution.
    """
    *convolutions, classifier = architecture.convolutions()
    dtype = params[f"{classifier.name}.bias"].dtype.name
    builder = relax.BlockBuilder()
    image = relax.Var("input", relax.TensorType(architecture.input_shape, dtype))
    with builder.function("main", [image]):
        with builder.dataflow():
            x = block_input = image
            block = ""
            for conv in convolutions:
                if conv.block != block:
                    block, block_input = conv.block, x
                x = _emit_convolution(builder, conv, x, params)
                if conv.residual:
                    x = builder.emit(relax.op.add(block_input, x), f"{_variable(conv)}_residual")
            pooled = builder.emit(relax.op.mean(x, [1, 2], keepdims=False), "pooled")  # [n, c]
            weight = _constant(params[f"{classifier.name}.weight"].T)
            logits = builder.emit(relax.op.matmul(pooled, weight), _variable(classifier))
            bias = _constant(params[f"{classifier.name}.bias"])
            output = builder.emit_output(relax.op.add(logits, bias))
        builder.emit_func_output(output)
    return builder.get()


def _emit_convolution(builder: Any, conv: Convolution, x: Any, params: Params) -> Any:
    weight = params[f"{conv.name}.weight"]  # [o, i, ky, kx]
    # A depthwise weight is [c, 1, ky, kx]: HWOI keeps the channels beside each other, groups = c.
    depthwise = conv.kind == "dwconv"
    axes, layout = ((2, 3, 0, 1), "HWOI") if depthwise else ((2, 3, 1, 0), "HWIO")
    y = relax.op.nn.conv2d(
        x,
        _constant(weight.transpose(axes)),
        strides=(conv.stride, conv.stride),
        padding=(conv.kernel // 2,) * 4,
        groups=conv.groups,
        data_layout="NHWC",
        kernel_layout=layout,
    )
    y = builder.emit(y, _variable(conv))
    y = builder.emit(relax.op.add(y, _constant(params[f"{conv.name}.bias"])))
    return builder.emit(relax.op.clip(y, 0, 6)) if conv.relu6 else y


def _constant(array: NDArray[np.floating]) -> Any:
    # It would take an array of float64 for one of float32, and a view for what it is a view of.
    return relax.const(np.ascontiguousarray(array), array.dtype.name)


def _variable(conv: Convolution) -> str:
    return conv.name.replace(".", "_")
