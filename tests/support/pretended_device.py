"""A GPU that is not there: `cuda:0`, whose tensors lie in the memory of the CPU.

Within `PretendedDevice()` the device exists, and every result is real. What a GPU would refuse raises here, each time
naming the line of the code that asked:

    MixedDevices     tensors of several devices in one operator (0-dim CPU tensors and CPU indices are allowed, as on
                     CUDA), and a generator of another device than its numbers
    Missing          a dtype that the device lacks (`forbidden`), and an operator without a kernel (`missing`)
    Inexact          a product of matrices with TF32, which the user has allowed (`tf32`)
    NotReproducible  sums of floats in the order in which threads arrive (`atomics`): equal seeds draw other images
    Race             `pretended_streams.py`

And it is counted what a GPU makes dear: `waits` for everything that is queued, `operators` that compute (views and
allocations do not), and the `bytes` that tensors take, with their `peak`.
"""

import contextlib
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch
from mmd_tests.support.pretended_streams import Block, Event, Stream, Streams
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE, CPU = torch.device("cuda", 0), torch.device("cpu")
TORCH = str(Path(torch.__file__).parent)
OURS = str(Path(__file__).parent)

VIEWS = {
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "expand", "lift_fresh", "permute",
    "select", "slice", "split", "split_with_sizes", "squeeze", "squeeze_", "t", "t_", "transpose", "transpose_", "unbind",
    "unfold", "unsqueeze", "unsqueeze_", "view", "view_as_complex", "view_as_real",
}  # fmt: skip
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_"}
COPIES = {"_to_copy", "copy_"}
INDEXED = {"_index_put_impl_", "_unsafe_index", "index", "index_put", "index_put_"}
# Operators whose result has a size, or is a number, that the host must know.
ASKING = {
    "_local_scalar_dense", "_unique2", "bincount", "equal", "histc", "is_nonzero", "masked_select", "multinomial",
    "nonzero", "repeat_interleave", "unique_consecutive", "unique_dim",
}  # fmt: skip
SOLVERS = ("_linalg_", "linalg_", "cholesky")  # the host reads whether they succeeded
NOT_SOLVERS = {"linalg_cross", "linalg_matrix_norm", "linalg_vector_norm"}
# torch.use_deterministic_algorithms lists the operators whose sums depend on the order of threads on CUDA.
ATOMIC = {
    "cumsum", "cumsum_", "histc", "index_add", "index_add_", "index_reduce", "index_reduce_", "scatter_add", "scatter_add_",
    "scatter_reduce", "scatter_reduce_",
}  # fmt: skip
PRODUCTS = {"_euclidean_dist", "addmm", "addmm_", "baddbmm", "baddbmm_", "bmm", "mm"}
ACCUMULATING = {"_index_put_impl_", "index_put", "index_put_", "put", "put_"}


class MixedDevices(RuntimeError):
    """As CUDA says it: expected all tensors to be on the same device."""


class Missing(NotImplementedError):
    """The device has no such operator or dtype."""


class Inexact(RuntimeError):
    """A product whose factors keep three digits."""


class NotReproducible(RuntimeError):
    """A sum of floats whose rounding depends on the order of threads."""


class Wait(NamedTuple):
    """The host waits for all that is queued: why, and the line of the code that asked."""

    why: str
    line: str


class Operator(NamedTuple):
    """An operator that computes: its name, the line that asked, the bytes it reads and writes, its multiply-adds."""

    name: str
    line: str
    bytes: int
    products: int


class OnDevice(Tensor):
    """A tensor that says it is on the device; `held` is what it holds."""

    @staticmethod
    def __new__(cls, held):
        with torch.inference_mode(held.is_inference()):
            return Tensor._make_wrapper_subclass(
                cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
                device=DEVICE, layout=held.layout,
            )  # fmt: skip

    def __init__(self, held):
        self.held, self.block = held, _device().block_of(held)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _device().run(function, args, kwargs or {})

    def __repr__(self, *, tensor_contents=None):
        return f"OnDevice({self.held!r})"

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            memo[id(self)] = OnDevice(self.held.clone())
            if isinstance(self, torch.nn.Parameter):
                memo[id(self)] = torch.nn.Parameter(memo[id(self)], self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol):
        return OnDevice, (self.held,)

    def tolist(self):
        _device().wait("tolist")
        return self.held.tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError(f"can't convert a cuda:0 tensor to numpy ({line_of_code()})")

    __array__ = numpy

    def data_ptr(self):
        return self.held.data_ptr()

    def record_stream(self, stream):
        self.block.recorded.add(stream.name)


class AnyGenerator(torch.Generator):
    """A generator of either device; it draws as that of the CPU does."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        made._device = torch.device(device)
        return made

    def __init__(self, device="cpu"):
        pass

    @property
    def device(self):
        return DEVICE if self._device.type == DEVICE.type else CPU


class OwnGenerators(TorchFunctionMode):
    """Refuses a generator of another device than its numbers."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if kwargs.get("generator") is not None:
            like = next((a.device for a in args if isinstance(a, Tensor)), CPU)
            wanted = like if kwargs.get("device") is None else torch.device(kwargs["device"])
            found = kwargs["generator"].device
            if found.type != wanted.type:
                raise MixedDevices(
                    f"Expected a {wanted.type!r} device type for generator but found {found.type!r} ({line_of_code()})"
                )
        return function(*args, **kwargs)


_entered: list = []


def _device():
    return _entered[-1]


def line_of_code() -> str:
    """The innermost line that is neither of torch nor of this file."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((TORCH, "<", OURS + "/pretended_", OURS + "\\pretended_")):
            return f"{'/'.join(Path(file).parts[-2:])}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


class PretendedDevice(TorchDispatchMode):
    """The module says what it does.

    Arguments:
        forbidden: Dtypes that the device lacks, as float64 on Apple and Intel Arc.
        missing: Names of operators that it lacks.
        atomics: Whether sums that depend on the order of threads are allowed.
        tf32: Whether products with TF32 are refused; it is then switched on, as a user may do.
    """

    def __init__(self, forbidden=(), missing=(), atomics=False, tf32=True):
        super().__init__()
        self.forbidden, self.missing, self.atomics = set(forbidden), set(missing), atomics
        self.tf32 = tf32
        self.waits, self.operators = [], []
        self.bytes = self.peak = 0
        self.streams = Streams()
        self._blocks = weakref.WeakValueDictionary()

    # Entering and leaving

    def __enter__(self):
        _entered.append(self)
        self._left = contextlib.ExitStack()
        torch._C._ensureCUDADeviceGuardSet()
        lifted = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(
            True
        )  # torch.tensor(..., device=...) comes to this mode
        self._left.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        replaced = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        self._left.callback(torch.__future__.set_overwrite_module_params_on_conversion, replaced)
        of_cuda = {
            "_lazy_init": lambda: None, "Stream": Stream, "Event": Event, "stream": self.streams.on,
            "current_stream": lambda device=None: self.streams.current, "current_device": lambda: 0,
            "default_stream": lambda device=None: self.streams.default, "device_count": lambda: 1,
            "synchronize": lambda device=None: self.wait("synchronize"),
        }  # fmt: skip
        for name, value in of_cuda.items():
            self._left.enter_context(patch.object(torch.cuda, name, value))
        self._left.enter_context(patch.object(torch, "Generator", AnyGenerator))
        if self.tf32:
            torch.set_float32_matmul_precision("high")
            self._left.callback(torch.set_float32_matmul_precision, "highest")
        self._left.enter_context(OwnGenerators())
        return super().__enter__()

    def __exit__(self, *raised):
        super().__exit__(*raised)
        self._left.close()
        _entered.remove(self)
        if raised[0] is None:
            self.streams.check()

    @contextlib.contextmanager
    def _entered_again(self) -> Iterator[None]:
        super().__enter__()
        try:
            yield
        finally:
            super().__exit__(None, None, None)

    # What is counted

    def wait(self, why: str, line: str | None = None) -> None:
        self.waits.append(Wait(why, line or line_of_code()))
        self.streams.arrived()

    def block_of(self, held: Tensor) -> Block:
        """The memory of a tensor; tensors that are views of each other share it."""
        storage = held.untyped_storage()
        key = storage.data_ptr() or id(storage)
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = Block(self.streams)
            self.bytes += storage.nbytes()
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(block, self._freed, storage.nbytes())
        return block

    def _freed(self, size: int) -> None:
        self.bytes -= size

    def forget(self) -> None:
        """Begins to count anew."""
        self.waits, self.operators, self.peak = [], [], self.bytes

    # One operator

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return self.run(function, args, kwargs or {})

    def run(self, function, args, kwargs):
        """The result of an operator, whose tensors may be on either device."""
        name = function._schema.name.split("::")[1]
        composed = torch._C._dispatch_has_kernel_for_dispatch_key(
            function.name(), "CompositeImplicitAutograd"
        )
        if composed and name not in ("is_pinned", "pin_memory"):  # not taken apart in inference
            with self._entered_again():
                taken_apart = function.decompose(*args, **kwargs)
            if taken_apart is not NotImplemented:
                return taken_apart
        tensors = [a for a in tree_flatten((args, kwargs))[0] if isinstance(a, Tensor)]
        here = [a for a in tensors if isinstance(a, OnDevice)]
        asked = kwargs.get("device")
        target = bool(here) if asked is None else torch.device(asked).type == DEVICE.type
        written = _written(function, args, kwargs)
        if not here and not target:
            return self._on_cpu(function, name, args, kwargs, written)
        line = line_of_code()
        self._refuse(name, function.name().split("::")[1], args, kwargs, tensors, line)
        self._note_wait(name, args, kwargs, target, line)
        plain, options = tree_map(_held, (args, kwargs))
        if asked is not None:
            options["device"] = CPU
        if target:
            options.pop("pin_memory", None)
        options.pop("non_blocking", None) if name == "_to_copy" else None
        out = function(*plain, **options)
        if name == "_to_copy" and not target and any(out is t.held for t in here):
            out = out.clone()  # a copy on the host is a tensor of its own
        if torch.Tag.inplace_view in function.tags:
            with no_dispatch():
                function(*args, **kwargs)
        computes = target and name not in VIEWS
        if computes:
            self.streams.read([t.block for t in here], line)
        result = self._on_device(function, out, written) if target else out
        made = [t for t in (*written, *tree_flatten(result)[0]) if isinstance(t, OnDevice)]
        for tensor in made:
            if tensor.dtype in self.forbidden:
                raise Missing(f"the device has no {tensor.dtype} ({name}, {line})")
        if computes:
            self.streams.wrote([t.block for t in made])
        if name not in VIEWS | ALLOCATIONS:
            self.operators.append(_operator(name, line, plain, out))
        return result

    def _on_cpu(self, function, name, args, kwargs, written):
        """An operator in which the device takes no part, but its copies may."""
        if name in ("is_pinned", "_is_pinned"):
            return self.streams.is_pinned(args[0])
        if name in ("pin_memory", "_pin_memory"):
            return self.streams.pinned(args[0].clone())
        for tensor in written:
            self.streams.overwrites(tensor, line_of_code())
        if kwargs.get("pin_memory"):
            return self.streams.pinned(function(*args, **{**kwargs, "pin_memory": False}))
        return function(*args, **kwargs)

    def _refuse(self, name, full, args, kwargs, tensors, line):
        single = name in PRODUCTS and tensors[0].dtype == torch.float32
        if self.tf32 and single and torch.backends.cuda.matmul.allow_tf32:
            raise Inexact(f"{name} uses TF32 ({line})")
        if name in self.missing or full in self.missing:
            raise Missing(f"aten::{name} has no kernel for this device ({line})")
        accumulates = name in ACCUMULATING and (args[3:4] == (True,) or kwargs.get("accumulate"))
        if not self.atomics and (name in ATOMIC or accumulates) and tensors[0].is_floating_point():
            raise NotReproducible(f"{name} adds floats in the order of threads ({line})")
        if name == "bincount" and len(tensors) > 1 and not self.atomics:
            raise NotReproducible(f"bincount adds weights in the order of threads ({line})")
        if name in COPIES | {"lift_fresh"} or name.endswith("_like") or name.startswith("new_"):
            return
        others = [t for t in tensors if not isinstance(t, OnDevice) and t.ndim > 0]
        if name in INDEXED and isinstance(args[0], OnDevice):
            indices = {id(index) for index in args[1]}
            others = [t for t in others if id(t) not in indices]
        if others:
            shapes = ", ".join(str(tuple(t.shape)) for t in others)
            raise MixedDevices(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                f"({name}, {shapes} on the CPU, {line})"
            )

    def _note_wait(self, name, args, kwargs, target, line):
        if name in COPIES:
            source = args[1] if name == "copy_" else args[0]
            into = isinstance(args[0], OnDevice) if name == "copy_" else target
            if isinstance(source, OnDevice) == into:
                return
            unblocked = args[2:3] == (True,) or kwargs.get("non_blocking")
            if into and unblocked and self.streams.copies(source):
                return
            self.wait(f"copy to the {'device' if into else 'host'}", line)
        elif name in ASKING or name.startswith(SOLVERS) and name not in NOT_SOLVERS:
            self.wait(name, line)
        elif name in INDEXED:
            for index in args[1]:
                if index is not None and index.dtype in (torch.bool, torch.uint8):
                    self.wait(f"{name} with a mask", line)
                elif index is not None and not isinstance(index, OnDevice):
                    self.wait(f"{name} with an index of the CPU", line)

    def _on_device(self, function, out, written):
        returns = function._schema.returns
        if written and returns and all(r.alias_info and r.alias_info.is_write for r in returns):
            return written[0] if len(returns) == 1 else tuple(written)
        return tree_map(lambda t: OnDevice(t) if isinstance(t, Tensor) else t, out)


def _held(value):
    return value.held if isinstance(value, OnDevice) else value


def _written(function, args, kwargs) -> list[Tensor]:
    """The arguments that an operator writes to."""
    found = []
    for i, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[i] if i < len(args) else None
            found.append(kwargs.get(argument.name, given))
    return [t for t in found if t is not None]


def _operator(name, line, args, out) -> Operator:
    tensors = [t for t in tree_flatten((args, out))[0] if isinstance(t, Tensor)]
    size = sum(min(t.numel() * t.itemsize, t.untyped_storage().nbytes()) for t in tensors)
    base, products = name.rstrip("_"), 0
    if base in ("addmm", "addmv", "baddbmm", "bmm", "dot", "mm", "mv"):
        a, b = [t for t in args if isinstance(t, Tensor)][-2:]
        products = a.numel() * (b.shape[-1] if b.ndim > 1 else 1)
    return Operator(name, line, size, products)


def on_device(value):
    """A tensor, or every tensor in a structure, on the device of the `PretendedDevice` that is entered."""
    return tree_map(lambda t: OnDevice(t.detach().clone()) if isinstance(t, Tensor) else t, value)


def on_host(value):
    """The other way round; the host does not count as waiting."""
    return tree_map(_held, value)
