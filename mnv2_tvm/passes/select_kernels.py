"""Replace each layer by a `call_tir` of its kernel, with its decisions and its packed weights."""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.passes.describe_layer import Description, describe_layer, weight_taps
from mnv2_tvm.target import Target


def select_kernels(
    mod: tvm.IRModule, target: Target, choose: Callable[[Layer], Schedule]
) -> tvm.IRModule:
    """`main` with a `call_tir` for each composite function; equal layers share one kernel."""
    # Before the visitor runs: TVM turns an exception inside one into a RuntimeError.
    parts = {
        name: describe_layer(function)
        for name, function in mod.functions.items()
        if "Composite" in (function.attrs or {})
    }
    schedules = {part.layer: choose(part.layer) for part in parts.values()}
    rewritten = _KernelSelector(mod, target, parts, schedules).run()
    kept = {
        name: function
        for name, function in rewritten.functions.items()
        if not (isinstance(function, relax.Function) and "Composite" in (function.attrs or {}))
    }
    return tvm.IRModule(kept)


@mutator
class _KernelSelector(PyExprMutator):  # type: ignore[misc]
    def __init__(
        self,
        mod: tvm.IRModule,
        target: Target,
        parts: Mapping[Any, Description],
        schedules: Mapping[Layer, Schedule],
    ) -> None:
        super().__init__(mod)
        self._mod = mod
        self._target = target
        self._parts = parts
        self._schedules = schedules
        self._kernels: dict[Layer, Any] = {}

    def run(self) -> tvm.IRModule:
        main = self.visit_expr(self._mod["main"])
        self.builder_.update_func(self._mod.get_global_var("main"), main)
        return self.builder_.get()

    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        if not isinstance(call.op, tvm.ir.GlobalVar):
            return call
        part = self._parts[call.op]
        layer = part.layer
        schedule = self._schedules[layer]
        if layer not in self._kernels:
            kernel = schedule.emit(layer, self._target)
            self._kernels[layer] = self.builder_.add_func(kernel, layer.name.replace("-", "_"))
        arguments = [self._shaped(call.args[part.x], layer.input_shape)]
        if part.weight is not None:
            weight = weight_taps(layer, call.args[part.weight].value.numpy())
            arguments += [relax.const(schedule.pack(layer, weight)), call.args[part.bias]]
        if part.residual is not None:
            arguments.append(call.args[part.residual])
        tasks = schedule.tasks(layer)
        arguments += [tvm.tirx.IntImm("int32", bound) for bound in (0, tasks)]
        result = relax.call_tir(
            self._kernels[layer], arguments, relax.TensorType(layer.output_shape, "float32")
        )
        return self._shaped(self.builder_.emit(result), tuple(call.ty.shape))

    def _shaped(self, value: Any, shape: tuple[Any, ...]) -> Any:
        """The same values as another shape: kernels see [n, y, x, c], the head [n, c]."""
        now, wanted = [[int(extent) for extent in s] for s in (value.ty.shape, shape)]
        assert prod(now) == prod(wanted)
        return value if now == wanted else self.builder_.emit(relax.op.reshape(value, wanted))
