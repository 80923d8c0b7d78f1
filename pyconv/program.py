"""A network compiled for one batch size: operations bound to memory that is used again every step.

A layer (or a step of `fusion`) adds its operations in its `plan` method:

    program = Program(module, dtype)
    x = program.input((64, 32, 32, 3))
    y = layer.plan(program, x)                 program.convolution(x, ...), .call(...), ...
    program.finish(y)

The program knows from where to where in a step each array is needed. Arrays that are not needed at the
same time share memory, which is allotted once: a step in steady state allocates nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _dispatch
from ._threads import resolve
from .functional import _plans
from .functional._plans import (
    cached_batch_norm,
    cached_conv,
    cached_conv_pool,
    cached_conv_transpose,
    cached_pool,
    problem_of,
)

Array = NDArray[Any]
Shape = tuple[int, ...]

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector
_KEPT = 16  # batch sizes whose programs are kept
_TRANSPOSED = ("stride", "padding", "output_padding", "dilation", "groups")
_BACKWARD = 1_000_000  # times of the backward pass count down from twice this


class Slot:
    """A piece of memory: its size, and the times at which it is first and last needed."""

    __slots__ = ("buffer", "dtype", "first", "last", "shape")

    def __init__(self, buffer: Any, shape: Shape, dtype: Any) -> None:
        self.buffer, self.shape, self.dtype = buffer, shape, np.dtype(dtype)
        self.first, self.last = 2 * _BACKWARD, -1

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def needed(self, time: int) -> None:
        """An operation at `time` reads or writes it."""
        self.first, self.last = min(self.first, time), max(self.last, time)

    def meets(self, other: Slot) -> bool:
        """Whether both are needed at some time."""
        return self.first <= other.last and other.first <= self.last


class Value:
    """An array of a program, and perhaps the gradient of the loss by it.

    Attributes
    ----------
    shape : tuple of int
    grad : Value or None
        None where nobody wants it.
    adder : (operation, int) or None
        What computed it, if that adds up gradients from two readers itself, and the time when it does.
    """

    __slots__ = ("adder", "grad", "shape", "slot")

    def __init__(self, slot: Slot, shape: Shape, grad: Value | None = None) -> None:
        self.slot, self.shape, self.grad = slot, shape, grad
        self.adder: tuple[Any, int] | None = None

    @property
    def buffer(self) -> Any:
        return self.slot.buffer

    @property
    def array(self) -> Array:
        return self.slot.buffer.array.reshape(self.shape)

    def reshaped(self, shape: Shape) -> Value:
        """The same memory under another shape of as many numbers."""
        return Value(self.slot, shape, self.grad and Value(self.grad.slot, shape))


def buffer_of(value: Value | None) -> Any:
    """The buffer of a value, None of None."""
    return None if value is None else value.buffer


def _values(*arrays: Any) -> list[Value]:
    """Those that are values of the program, and not parameters."""
    return [array for array in arrays if isinstance(array, Value)]


class Arena:
    """Memory that grows; programs that never run at the same time share one."""

    def __init__(self) -> None:
        self.memory = np.empty(0, np.uint8)
        self._workspaces: dict[ModuleType, Any] = {}

    def workspaces(self, module: ModuleType) -> Any:
        """Those that the plans of such programs share."""
        if module not in self._workspaces:
            self._workspaces[module] = module.Workspaces()
        return self._workspaces[module]

    def reserve(self, nbytes: int) -> None:
        """Have at least so much memory; what was in it is lost if it grows."""
        if nbytes > len(self.memory):
            raw = np.empty(nbytes + _ALIGNMENT, np.uint8)
            start = -raw.ctypes.data % _ALIGNMENT
            self.memory = raw[start : start + nbytes]


class Program:
    """Operations of one network for one batch size.

    Parameters
    ----------
    module : module
        The kernels that compute it.
    dtype : dtype
        Of all values.
    training : bool
        Whether there is a backward pass.
    arena : Arena
    """

    def __init__(self, module: ModuleType, dtype: Any, training: bool, arena: Arena) -> None:
        self.module, self.dtype, self.training = module, np.dtype(dtype), training
        self._arena = arena
        self._memory: Array | None = None
        self._slots: list[tuple[int, Slot]] = []  # with their places in the arena, after `finish`
        self._size = 0
        self._operations: list[Any] = []
        self._backward: list[Any] = []
        self._labels: list[str] = []
        self._watch = module.Watch()  # of the weights, in prediction
        self.label = ""  # of the operations that are added next, for `times`

    # What layers ask for

    def new(self, shape: Shape, dtype: Any = None, wants_grad: bool = False) -> Value:
        """An array that an operation will fill, with a gradient if `wants_grad` in training."""
        slot = Slot(self.module.Buffer(), shape, dtype or self.dtype)
        self._slots.append((0, slot))
        return Value(slot, shape, self.new(shape) if wants_grad and self.training else None)

    def constant(self, array: Array | Value | None) -> Any:
        """The buffer of a value, or of memory that lies elsewhere, such as a parameter's; or None."""
        if array is None or isinstance(array, Value):
            return buffer_of(array)
        buffer = self.module.Buffer()
        buffer.bind(array)
        return buffer

    def add(
        self, operation: Any, forward: Iterable[Value | None], backward: Iterable[Value | None] = ()
    ) -> int:
        """Add an operation; `forward` and `backward` are the values that it reads and writes there.

        The operation goes backward too if `backward` names any. Returns the time when it does.
        """
        time = len(self._operations)
        time_back = 2 * _BACKWARD - time
        self._operations.append(operation)
        self._labels.append(self.label)
        for value in filter(None, forward):
            value.slot.needed(time)
        going_back = list(filter(None, backward)) if self.training else []
        if going_back:
            self._backward.append(operation)
        for value in going_back:
            value.slot.needed(time_back)
        return time_back

    def _plan(self, problem: Any, w: Any = None) -> Any:
        """A plan for this program alone, with the workspaces that all its plans share.

        In prediction it keeps what it makes of the weights `w`, if given, until they change.
        """
        plan = problem.new_plan(self.module)
        plan.share(self._arena.workspaces(self.module))
        if w is not None and not self.training:
            plan.follow(self._watch, None if isinstance(w, Value) else w)
        return plan

    def input(self, shape: Shape) -> Value:
        """The network's input, whose memory is the caller's."""
        self.x = Value(Slot(self.module.Buffer(), shape, self.dtype), shape)
        self._staging: Array | None = None
        return self.x

    def convolution(
        self, x: Value, params: dict[str, Any], grads: dict[str, Array], relu: bool,
        stride: Any = 1, padding: Any = "valid", dilation: Any = 1, groups: int = 1,
        residual: Value | None = None,
    ) -> Value:
        """Convolution with the parameters "w" and perhaps "b", then ReLU if `relu`.

        In prediction it may add `residual` before the ReLU.
        """
        w, b = params["w"], params.get("b")
        problem = problem_of(cached_conv, "convolution", (x.shape, w.shape), stride, padding, dilation,
                             groups)
        y = self.new(problem.geometry.y_shape, wants_grad=True)
        self.add(
            self.module.Convolution(
                self._plan(problem, w), x.buffer, self.constant(w), self.constant(b), relu,
                y.buffer, buffer_of(y.grad), buffer_of(x.grad), self.constant(grads.get("w")),
                self.constant(grads.get("b")), buffer_of(residual)),
            forward=[x, y, residual, *_values(w, b)], backward=[x, y if relu else None, y.grad, x.grad])
        return y

    def transposed_convolution(
        self, x: Value, params: dict[str, Any], grads: dict[str, Array], relu: bool, **options: Any
    ) -> Value:
        """Transposed convolution with the parameters "w" and perhaps "b", then ReLU if `relu`."""
        w, b = params["w"], params.get("b")
        problem = problem_of(cached_conv_transpose, "transposed convolution", (x.shape, w.shape),
                             *(options[name] for name in _TRANSPOSED))
        y = self.new(problem.geometry.x_shape, wants_grad=True)
        self.add(
            self.module.TransposedConvolution(
                self._plan(problem), x.buffer, self.constant(w), self.constant(b), relu,
                y.buffer, buffer_of(y.grad), buffer_of(x.grad), self.constant(grads.get("w")),
                self.constant(grads.get("b"))),
            forward=[x, y, *_values(w, b)], backward=[x, y if relu else None, y.grad, x.grad])
        return y

    def convolution_max_pool(
        self, x: Value, params: dict[str, Any], grads: dict[str, Array], relu: bool,
        stride: Any, padding: Any, dilation: Any, groups: int, window: Any, pool_stride: Any,
        pool_padding: Any,
    ) -> Value:
        """`convolution`, then max pooling, as one."""
        w, b = params["w"], params.get("b")
        problem: Any = problem_of(
            cached_conv_pool, "convolution", (x.shape, w.shape), stride, padding, dilation, groups,
            window, pool_stride, pool_padding)
        y = self.new(problem.pool.y_shape, wants_grad=True)
        indices = self.new(y.shape, np.int32) if self.training else None
        self.add(
            self.module.ConvolutionMaxPool(
                self._plan(problem, w), x.buffer, self.constant(w), self.constant(b), relu,
                y.buffer, buffer_of(indices), buffer_of(y.grad), buffer_of(x.grad),
                self.constant(grads.get("w")), self.constant(grads.get("b"))),
            forward=[x, y, indices, *_values(w, b)], backward=[x, indices, y.grad, x.grad])
        return y

    def _pooled(self, x: Value, window: Any, stride: Any, padding: Any) -> tuple[Value, tuple[Any, ...]]:
        """A pool's output, and the shapes that its operation takes."""
        geometry: Any = problem_of(cached_pool, "pooling", x.shape, window, stride, padding, 1,
                                   False).geometry
        y = self.new(geometry.y_shape, wants_grad=x.grad is not None)
        return y, (x.shape, y.shape, geometry.window, geometry.stride, geometry.pads)

    def average_pool(self, x: Value, window: Any, stride: Any = None, padding: Any = "valid") -> Value:
        """Means over windows."""
        y, shapes = self._pooled(x, window, stride, padding)
        self.add(
            self.module.AveragePool(
                *shapes, x.buffer, y.buffer, buffer_of(y.grad), buffer_of(x.grad)),
            forward=[x, y], backward=[y.grad, x.grad] if x.grad else [])
        return y

    def max_pool(self, x: Value, window: Any, stride: Any = None, padding: Any = "valid") -> Value:
        """Maxima over windows."""
        y, shapes = self._pooled(x, window, stride, padding)
        indices = self.new(y.shape, np.int32) if x.grad else None
        self.add(
            self.module.MaxPool(
                *shapes, x.buffer, y.buffer, buffer_of(indices), buffer_of(y.grad), buffer_of(x.grad)),
            forward=[x, y, indices], backward=[indices, y.grad, x.grad] if x.grad else [])
        return y

    def rectify(self, x: Value) -> Value:
        """ReLU."""
        y = self.new(x.shape, wants_grad=x.grad is not None)
        self.add(
            self.module.Rectify(math.prod(x.shape), x.buffer, y.buffer, buffer_of(y.grad),
                                buffer_of(x.grad)),
            forward=[x, y], backward=[y, y.grad, x.grad] if x.grad else [])
        return y

    def activate(self, x: Value, kind: int, a: float) -> Value:
        """An activation by its number in the kernels, with its parameter `a`."""
        y = self.new(x.shape, wants_grad=x.grad is not None)
        self.add(
            self.module.Activate(kind, a, math.prod(x.shape), x.buffer, y.buffer, buffer_of(y.grad),
                                 buffer_of(x.grad)),
            forward=[x, y], backward=[y, y.grad, x.grad] if x.grad else [])
        return y

    def normalization(
        self, x: Value, norm: Any, relu: bool, residual: Value | None = None
    ) -> Value:
        """Batch normalization by the layer `norm`, plus `residual`, then ReLU if `relu`."""
        C = x.shape[-1]
        y = self.new(x.shape, wants_grad=True)
        mean, var = (self.new((C,)) if self.training else None for _ in range(2))
        gamma, beta = norm.params.values()
        moving_mean, moving_var = norm.state.values()
        dr = residual.grad if residual else None
        mask = y if relu and residual else None  # without a residual, x tells where y was 0
        operation = self.module.Normalization(
            cached_batch_norm(math.prod(x.shape) // C, C).new_plan(self.module), norm.epsilon,
            norm.momentum, self.training, relu, x.buffer, self.constant(gamma), self.constant(beta),
            buffer_of(residual), y.buffer, buffer_of(mean), buffer_of(var),
            self.constant(moving_mean), self.constant(moving_var), buffer_of(y.grad),
            buffer_of(x.grad), self.constant(norm.grads["gamma"]), self.constant(norm.grads["beta"]),
            buffer_of(dr))
        time_back = self.add(operation, forward=[x, residual, y, mean, var],
                             backward=[x, mean, var, mask, y.grad, x.grad, dr])
        if mask and dr:
            y.adder = operation, time_back
        return y

    def folded(self, params: dict[str, Array], norm: Any) -> dict[str, Value]:
        """Parameters whose outputs are those of `params` behind `norm` in prediction."""
        w, b = params["w"], params.get("b")
        values = {"w": self.new(w.shape), "b": self.new(w.shape[-1:])}
        sources = [w, b, *norm.params.values(), *norm.state.values()]
        for array in sources:
            if array is not None:
                self._watch.add(array)
        for value in values.values():  # stays from one run to the next
            value.slot.needed(0)
            value.slot.needed(2 * _BACKWARD)
        self.add(
            self.module.FoldNormalization(
                w.size // w.shape[-1], w.shape[-1], norm.epsilon, *map(self.constant, sources),
                values["w"].buffer, values["b"].buffer, self._watch),
            forward=values.values())
        return values

    def fork(self, x: Value) -> tuple[Value, Value]:
        """`x` for two readers, whose gradients are added up."""
        if x.grad is None:
            return x, x
        if x.adder:
            (operation, time_back), grad = x.adder, self.new(x.shape)
            operation.add_to_dy(grad.buffer)
            grad.slot.needed(time_back)
            return Value(x.slot, x.shape, x.grad), Value(x.slot, x.shape, grad)
        a, b = (Value(x.slot, x.shape, self.new(x.shape)) for _ in range(2))
        self.add(
            self.module.Fork(math.prod(x.shape), buffer_of(a.grad), buffer_of(b.grad),
                             x.grad.buffer),
            forward=[], backward=[a.grad, b.grad, x.grad])
        return a, b

    def sum(self, x: Value, r: Value, relu: bool) -> Value:
        """x + r, then ReLU if `relu`."""
        y = self.new(x.shape, wants_grad=x.grad is not None or r.grad is not None)
        self.add(
            self.module.Sum(math.prod(x.shape), relu, x.buffer, r.buffer, y.buffer,
                            buffer_of(y.grad), buffer_of(x.grad), buffer_of(r.grad)),
            forward=[x, r, y], backward=[y if relu else None, y.grad, x.grad, r.grad] if y.grad else [])
        return y

    def call(self, layer: Any, x: Value, shape: Shape) -> Value:
        """Any layer by its own `forward` and `backward`, whose results are copied."""
        y = self.new(shape, wants_grad=x.grad is not None or bool(layer.params))

        def forward() -> None:
            y.array[...] = layer.forward(x.array, self.training)

        def backward() -> None:
            assert y.grad is not None
            dx = layer.backward(y.grad.array, need_dx=x.grad is not None)
            if x.grad is not None:
                x.grad.array[...] = dx

        # The layer's cache may hold x and y.
        self.add(self.module.Call(forward, backward), forward=[x, y],
                 backward=[x, y, y.grad, x.grad] if y.grad else [])
        return y

    def finish(self, y: Value) -> None:
        """`y` is the network's output. Find a place in the arena for every value."""
        self.y = y
        for value in filter(None, (y, y.grad)):
            value.slot.needed(_BACKWARD)
        placed: list[tuple[int, Slot]] = []
        for _, slot in sorted(self._slots, key=lambda item: -item[1].nbytes):
            start = 0
            for other_start, other in sorted(placed, key=lambda item: item[0]):
                if slot.meets(other):
                    if start + slot.nbytes <= other_start:
                        break
                    end = other_start + other.nbytes
                    start = max(start, -(-end // _ALIGNMENT) * _ALIGNMENT)
            placed.append((start, slot))
        self._slots = placed
        self._size = max((start + slot.nbytes for start, slot in placed), default=0)

    # Running it

    def forward(self, x: Array, num_threads: int) -> Array:
        """The output for `x`: the program's own array, which the next run overwrites."""
        if self._memory is not self._arena.memory or self._memory is None:
            self._bind()
        self.x.buffer.bind(self._own(x))
        if not self.training:
            self._watch.look(num_threads)
        self.module.run_forward(self._operations, num_threads)
        return self.y.array

    def backward(self, dy: Array, num_threads: int) -> None:
        """Fill the gradients of the parameters, after `forward`."""
        assert self.y.grad is not None
        np.copyto(self.y.grad.array, dy)
        self.module.run_backward(self._backward, num_threads)

    def times(self, x: Array, rounds: int) -> list[dict[str, Any]]:
        """Seconds of each operation of a training step, the best of `rounds`: for benchmarks."""
        assert self.y.grad is not None
        best = [[math.inf, math.inf if operation in self._backward else 0.0]
                for operation in self._operations]
        for _ in range(rounds):
            num_threads = resolve(None)  # which keeps workers off this thread's CPU now, too
            self.forward(x, num_threads)  # binds the memory
            for run, way, order in ((self.module.run_forward, 0, 1), (self.module.run_backward, 1, -1)):
                self.y.grad.array[...] = 1
                # In their order: each finds what the one before has left, numbers and caches.
                for operation, found in list(zip(self._operations, best, strict=True))[::order]:
                    if found[way]:
                        start = perf_counter()
                        run([operation], num_threads)
                        found[way] = min(found[way], perf_counter() - start)
        return [{"operation": label, "forward": forward, "backward": backward}
                for label, (forward, backward) in zip(self._labels, best, strict=True)]

    def _bind(self) -> None:
        self._arena.reserve(self._size)
        self._memory = memory = self._arena.memory
        for start, slot in self._slots:
            piece = memory[start : start + slot.nbytes]
            slot.buffer.bind(piece.view(slot.dtype).reshape(slot.shape))

    def _own(self, x: Array) -> Array:
        """`x` as the kernels take it: itself, or a copy in memory that is kept."""
        flags = x.flags
        if x.dtype == self.dtype and flags.c_contiguous and flags.aligned:
            return x
        if self._staging is None:
            self._staging = np.empty(self.x.shape, self.dtype)
        np.copyto(self._staging, x, casting="unsafe")
        return self._staging


class Programs:
    """The programs of one network: one for each batch size, and as many as run at the same time.

    Parameters
    ----------
    steps : list of (Layer, str)
        What is run, each with its label for benchmarks.
    dtype : dtype
    """

    def __init__(self, steps: list[tuple[Any, str]], dtype: Any) -> None:
        self.steps, self.dtype = steps, np.dtype(dtype)
        self._training = Arena()  # a network trains on one batch at a time
        self._free: dict[Any, list[Program]] = {}

    def borrow(self, x_shape: Shape, training: bool) -> tuple[Program, list[Program]]:
        """A program for one pass, and the list to give it back to."""
        module = _dispatch.active.modules[self.dtype.char]
        key = x_shape, training, module, _plans._direct
        try:
            free = self._free[key]
        except KeyError:
            while len(self._free) >= _KEPT:
                self._free.pop(next(iter(self._free)), None)
            free = self._free.setdefault(key, [])
        try:
            return free.pop(), free
        except IndexError:
            return self._compile(x_shape, training, module), free

    def _compile(self, x_shape: Shape, training: bool, module: ModuleType) -> Program:
        program = Program(module, self.dtype, training, self._training if training else Arena())
        value = program.input(x_shape)
        for step, program.label in self.steps:
            value = step.plan(program, value)
        program.finish(value)
        return program
