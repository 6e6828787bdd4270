"""What the names in a checkpoint's pickle mean: the functions that rebuild torch's tensors.

Everything else that a file names stays a record of the pickle machine. The functions here only
put what they are given into another record.
"""

import re
from collections.abc import Callable
from typing import Any

from mnv2_tvm.model.pickle_machine import Made, Name, fill
from mnv2_tvm.model.stored_tensors import OddTensor, Storage, StoredTensor, Tensor

_UNTYPED = "uint8"  # of a storage that leaves the type to its tensors
_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "QUInt8Storage": "quint8",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": _UNTYPED,
}
_ONE_BYTE = {"int8", "uint8", "bool", "qint8", "quint8", "quint4x2", "quint2x4"}
_BYTES = dict.fromkeys(_ONE_BYTE, 1)
_BYTES |= dict.fromkeys(("float16", "bfloat16", "int16"), 2)
_BYTES |= dict.fromkeys(("float32", "int32", "qint32"), 4)
_BYTES |= dict.fromkeys(("float64", "int64", "complex64"), 8) | {"complex128": 16}

# A persistent id as protocol 0 writes it: as text.
_AS_TEXT = re.compile(
    r"\('storage', <class 'torch\.(?:storage\.)?(\w{1,40})'>, '(\w{1,40})', '[^']{1,40}', \d{1,18}"
    r"(?:, None)?\)"
)

_SPARSE = OddTensor("is sparse", "save it dense, as tensor.to_dense()")
_META = OddTensor("has a shape and no numbers", "save the model from where its weights are loaded")
_QUANTIZED = OddTensor(
    "is quantized, not of real floating point",
    "give the model from before it was quantized or converted",
)
_NEGATED = OddTensor("is a view that turns the sign", "save it as tensor.resolve_neg()")
_OTHER = OddTensor(
    "is a tensor of a kind of its own",
    "save its plain numbers, as tensor.detach().cpu().clone()",
)


def element_bytes(storage: Storage) -> int:
    """Bytes of an element of a storage."""
    return _BYTES[storage.dtype]


def storage_of(identity: Any) -> Any:
    """The storage, or the class of a module, that a persistent id stands for."""
    if isinstance(identity, str) and (told := _AS_TEXT.fullmatch(identity[:300])):
        identity = ("storage", Name(f"torch.{told[1]}"), told[2], "", 0)
    match identity:
        case ("storage", Name(text), str(key), _, _, *view) if view in ([], [None]):
            dtype = _STORAGES.get(text.rsplit(".", 1)[-1])
            if dtype is not None and text.startswith("torch."):
                return Storage(key, dtype)
        case ("module", Name() as container, *_):  # with its source code, which is not looked at
            return container
    raise ValueError("a reference to something that is no tensor")


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (Storage(), _, tuple(), tuple(), _, _, {"neg": True}):
            return _NEGATED
        case (Storage() as storage, offset, tuple(shape), tuple(strides), *_):
            return StoredTensor(storage, storage.dtype, offset, shape, strides)
    raise ValueError("a tensor without its parts")


def _typed_tensor(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (Storage() as storage, offset, tuple(shape), tuple(strides), _, _, Name(dtype), *_):
            name = dtype.removeprefix("torch.")
            return StoredTensor(storage, name, offset, shape, strides)
    raise ValueError("a tensor without its parts")


def _of_type(arguments: tuple[Any, ...]) -> Any:
    """Of a class derived from Tensor: what the first argument, a function, makes of the third."""
    match arguments:
        case (Name(text), _, tuple(inner), *_) if text in _TENSORS:
            return _TENSORS[text](inner)
    return _OTHER


def _first(arguments: tuple[Any, ...]) -> Any:
    """A Parameter is the tensor that it is made of."""
    return arguments[0] if arguments else None


def _size(arguments: tuple[Any, ...]) -> Any:
    match arguments:
        case (tuple(numbers),):
            return numbers
    raise ValueError("a shape without its numbers")


def _dict(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """OrderedDict(): empty, or from the list of pairs that Python 2 and protocol 0 write."""
    filled: dict[str, Any] = {}
    if arguments and isinstance(arguments[0], list):
        pairs = (pair for pair in arguments[0] if isinstance(pair, list | tuple))
        fill(filled, ((pair[0], pair[1]) for pair in pairs if len(pair) == 2))
    return filled


def _object(arguments: tuple[Any, ...]) -> Made:
    """An object of the class in the first argument, as protocols 0 and 1 make it."""
    match arguments:
        case (Name(text), *rest):
            return Made(text, tuple(rest))
    raise ValueError("an object without its class")


def _always(value: OddTensor) -> Callable[[tuple[Any, ...]], OddTensor]:
    return lambda _: value


_TENSORS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils._rebuild_sparse_tensor": _always(_SPARSE),
    "torch._utils._rebuild_qtensor": _always(_QUANTIZED),
    "torch._utils._rebuild_meta_tensor_no_storage": _always(_META),
    "torch._utils._rebuild_nested_tensor": _always(_OTHER),
    "torch._utils._rebuild_wrapper_subclass": _always(_OTHER),
    "torch._utils._rebuild_device_tensor_from_numpy": _always(_OTHER),
}
CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type": _of_type,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch.Size": _size,
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _dict,
    "copyreg._reconstructor": _object,
    "copy_reg._reconstructor": _object,
    "copyreg.__newobj__": _object,
}
