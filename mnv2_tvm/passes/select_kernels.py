"""Replace each layer by a `call_tir` of its kernel, with its decisions and its packed weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Any

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.passes.describe_layer import describe_layer, weight_taps
from mnv2_tvm.passes.find_blocks import Operation, absorbed, operations
from mnv2_tvm.target import Target

Choose = Callable[[Layer], Schedule | None]  # None only for a block: its layers one by one


_FEW_PIXELS = 4  # so few uses of a weight do not hide that it comes from memory


@dataclass(frozen=True)
class Selected:
    """An operation, its decisions, and how much of the next one's weights it fetches."""

    operation: Operation
    schedule: Schedule
    ahead_bytes: int = 0


def select_kernels(mod: tvm.IRModule, target: Target, choose: Choose) -> tvm.IRModule:
    """`main` with a `call_tir` for each layer, or for a whole block where `choose` has one.

    Equal layers share one kernel.
    """
    # Before the visitor runs: TVM turns an exception inside one into a RuntimeError.
    parts = {
        name: describe_layer(function)
        for name, function in mod.functions.items()
        if "Composite" in (function.attrs or {})
    }
    kernels = _fetching_ahead(_choose(operations(mod, parts), choose))
    rewritten = _KernelSelector(mod, target, kernels).run()
    kept = {
        name: function
        for name, function in rewritten.functions.items()
        if not (isinstance(function, relax.Function) and "Composite" in (function.attrs or {}))
    }
    return tvm.IRModule(kept)


def _choose(
    found: Mapping[Any, tuple[Operation, ...]], choose: Choose
) -> dict[Any, Selected | None]:
    """The kernel that defines each variable; None where a block made the variable needless."""
    kernels: dict[Any, Selected | None] = {}
    for variable, (layer, *block) in found.items():
        inner = absorbed(variable, found) if block else ()
        # Not where the layer that the block begins with is the end of another one.
        apart = all((made := kernels[v]) and made.operation is found[v][0] for v in inner)
        whole = choose(block[0].layer) if block and apart else None
        if whole is not None:
            kernels |= dict.fromkeys(inner)
            kernels[variable] = Selected(block[0], whole)
        else:
            schedule = choose(layer.layer)
            assert schedule is not None
            kernels[variable] = Selected(layer, schedule)
    return kernels


def _fetching_ahead(kernels: dict[Any, Selected | None]) -> dict[Any, Selected | None]:
    """The same, but what stands before a layer of few pixels fetches that one's weights."""
    weighted = [(v, s) for v, s in kernels.items() if s and s.operation.parameters]
    for (variable, before), (_, after) in pairwise(weighted):
        layer = after.operation.layer
        if layer.batch * layer.out_height * layer.out_width <= _FEW_PIXELS:
            ahead_bytes = layer.dtype.bytes * layer.weight_count
            kernels[variable] = replace(before, ahead_bytes=ahead_bytes)
    return kernels


@mutator
class _KernelSelector(PyExprMutator):  # type: ignore[misc]
    def __init__(
        self,
        mod: tvm.IRModule,
        target: Target,
        kernels: Mapping[Any, Selected | None],
    ) -> None:
        super().__init__(mod)
        self._mod = mod
        self._target = target
        self._selected = kernels
        self._emitted: dict[tuple[Layer, int], Any] = {}

    def run(self) -> tvm.IRModule:
        main = self.visit_expr(self._mod["main"])
        self.builder_.update_func(self._mod.get_global_var("main"), main)
        return self.builder_.get()

    def visit_var_binding_(self, binding: Any) -> None:
        if binding.var not in self._selected:
            super().visit_var_binding_(binding)
            return
        selected = self._selected[binding.var]
        if selected is not None:
            result = self._call(selected, tuple(binding.var.ty.shape))
            self.set_var_remap(binding.var, result)

    def _call(self, selected: Selected, shape: tuple[Any, ...]) -> Any:
        operation, schedule = selected.operation, selected.schedule
        layer = operation.layer
        key = (layer, selected.ahead_bytes)
        if key not in self._emitted:
            kernel = schedule.emit(layer, self._target, selected.ahead_bytes)
            self._emitted[key] = self.builder_.add_func(kernel, layer.name.replace("-", "_"))
        arguments = [self._shaped(self.visit_expr(operation.x), layer.input_shape)]
        arrays = [
            weight_taps(layer.weighted[parameter.part], constant.value.numpy())
            if parameter.role == "weight"
            else constant.value.numpy()
            for parameter, constant in zip(layer.parameters, operation.parameters, strict=True)
        ]
        arguments += [relax.const(packed) for packed in schedule.pack(layer, arrays)]
        if operation.residual is not None:
            arguments.append(self.visit_expr(operation.residual))
        arguments += [tvm.tirx.IntImm("int32", bound) for bound in (0, schedule.tasks(layer))]
        types = [relax.TensorType(layer.output_shape, layer.dtype.storage)]
        if floats := schedule.scratch_floats(layer):
            types.append(relax.TensorType((floats,), "float32"))
        result = self.builder_.emit(relax.call_tir(self._emitted[key], arguments, types))
        if floats:
            result = self.builder_.emit(relax.TupleGetItem(result, 0))
        return self._shaped(result, shape)

    def _shaped(self, value: Any, shape: tuple[Any, ...]) -> Any:
        """The same values as another shape: kernels see [n, y, x, c], the head [n, c]."""
        now, wanted = [[int(extent) for extent in s] for s in (value.ty.shape, shape)]
        assert prod(now) == prod(wanted)
        return value if now == wanted else self.builder_.emit(relax.op.reshape(value, wanted))
