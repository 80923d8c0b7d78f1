"""The entries of the kernels; every `_kernels*` module has the same ones.

Arrays are C-contiguous and of the module's own dtype, float32 or float64; axes are in the comments.
Nothing is checked here but dtype, number of axes and contiguity: `pyconv.functional` does the rest.
"""

from typing import Any, final

from numpy import float64, int32, int64, uint8
from numpy.typing import NDArray

_Array = NDArray[Any]
_Shape = tuple[int, ...]
_Pair = tuple[int, int]
_Pads = tuple[_Pair, _Pair]

@final
class Workspace: ...

@final
class Workspaces: ...

@final
class Watch:
    @property
    def version(self) -> int: ...
    def add(self, array: _Array) -> None: ...
    def look(self, num_threads: int) -> None: ...

# Convolution

@final
class ConvPlan:
    def __init__(
        self, x: _Shape, w: _Shape, y: _Shape, stride: _Pair, dilation: _Pair, before: _Pair,
        groups: int, direct: bool = False,
    ) -> None: ...
    @property
    def scatters(self) -> bool: ...
    def share(self, shared: Workspaces) -> None: ...
    def follow(self, watch: Watch, w: _Array | None = None) -> None: ...
    def algorithm(self, direction: str) -> str: ...
    def estimates(self, direction: str, direct: bool = False) -> dict[str, float]: ...
    def take(self, direction: str, driver: str) -> None: ...
    def forward(
        self, x: _Array, w: _Array, b: _Array | None, relu: bool, y: _Array, num_threads: int
    ) -> None: ...
    def backward(
        self, dy: _Array, x: _Array, w: _Array, dx: _Array | None, dw: _Array | None,
        db: _Array | None, num_threads: int,
    ) -> None: ...
    def transpose(
        self, x: _Array, w: _Array, b: _Array | None, relu: bool, y: _Array, num_threads: int
    ) -> None: ...
    def transpose_backward(
        self, dy: _Array, x: _Array, w: _Array, dx: _Array | None, dw: _Array | None,
        db: _Array | None, num_threads: int,
    ) -> None: ...

@final
class ConvPoolPlan:
    def __init__(
        self, x: _Shape, w: _Shape, z: _Shape, y: _Shape, stride: _Pair, dilation: _Pair, before: _Pair,
        groups: int, window: _Pair, pool_stride: _Pair, pool_pads: _Pads, direct: bool = False,
    ) -> None: ...
    def share(self, shared: Workspaces) -> None: ...
    def follow(self, watch: Watch, w: _Array | None = None) -> None: ...
    def forward(
        self, x: _Array, w: _Array, b: _Array | None, relu: bool, y: _Array, indices: NDArray[int32],
        num_threads: int,
    ) -> None: ...
    def backward(
        self, dy: _Array, indices: NDArray[int32], x: _Array, w: _Array, dx: _Array | None,
        dw: _Array | None, db: _Array | None, num_threads: int,
    ) -> None: ...

# Batch normalization: arrays (P, C) of P pixels, parameters (C,)

@final
class BatchNormPlan:
    @property
    def P(self) -> int: ...
    @property
    def C(self) -> int: ...
    def __init__(self, P: int, C: int) -> None: ...
    def forward(
        self, x: _Array, gamma: _Array, beta: _Array, epsilon: float, r: _Array | None, relu: bool,
        y: _Array, mean: _Array, var: _Array, moving: tuple[_Array, _Array] | None, momentum: float,
        num_threads: int,
    ) -> None: ...
    def inference(
        self, x: _Array, gamma: _Array, beta: _Array, mean: _Array, var: _Array, epsilon: float,
        r: _Array | None, relu: bool, y: _Array, num_threads: int,
    ) -> None: ...
    def backward(
        self, dy: _Array, x: _Array, gamma: _Array, beta: _Array, mean: _Array, var: _Array,
        epsilon: float, relu: bool, y: _Array | None, dx: _Array | None, dgamma: _Array,
        dbeta: _Array, dr: _Array | None, num_threads: int,
    ) -> None: ...

def fold_batch_norm(
    w: _Array, b: _Array | None, gamma: _Array, beta: _Array, mean: _Array, var: _Array,
    epsilon: float, to_w: _Array, to_b: _Array, num_threads: int,
) -> None: ...

# Directions of a plan; plans make them.

class Depthwise:
    @property
    def work(self) -> int: ...

@final
class DepthwiseGather(Depthwise): ...

@final
class DepthwiseReduce(Depthwise): ...

class Packer:
    @property
    def work(self) -> int: ...

@final
class Gather(Packer): ...

@final
class Scatter(Packer): ...

@final
class Pointwise(Packer): ...

@final
class Line(Packer): ...

@final
class Reduce:
    @property
    def work(self) -> int: ...

@final
class WideReduce:
    @property
    def work(self) -> int: ...

@final
class RowWinogradFilter:
    @property
    def work(self) -> int: ...

@final
class Grid: ...

@final
class Winograd:
    @property
    def work(self) -> int: ...

@final
class LineWide(Packer): ...

@final
class LineWideFilter:
    @property
    def work(self) -> int: ...

@final
class Quads: ...

@final
class WinnerSums:
    def __init__(
        self, x: _Shape, w: _Shape, z: _Shape, y: _Shape, stride: _Pair, before: _Pair, window: _Pair,
        pool_stride: _Pair,
    ) -> None: ...

@final
class WinogradFilter:
    @property
    def work(self) -> int: ...

# Pooling: x (N, H, W, C), y and indices (N, OH, OW, C)

def max_pool(
    x: _Array, y: _Array, indices: NDArray[int32] | None, kernel: _Pair, stride: _Pair,
    dilation: _Pair, pads: _Pads, scratch: Workspace, num_threads: int,
) -> None: ...
def indices_fit(indices: NDArray[int32], least: int, size: int) -> bool: ...
def max_pool_backward(
    dy: _Array, indices: NDArray[int32], dx: _Array, num_threads: int
) -> bool: ...
def average_pool(
    x: _Array, y: _Array, kernel: _Pair, stride: _Pair, dilation: _Pair, pads: _Pads,
    include_pad: bool, scratch: Workspace, num_threads: int,
) -> None: ...
def average_pool_backward(
    dy: _Array, dx: _Array, kernel: _Pair, stride: _Pair, dilation: _Pair, pads: _Pads,
    include_pad: bool, scratch: Workspace, num_threads: int,
) -> None: ...

# Elementwise: flat arrays (n,), or rows of logits (N, C)

def relu(x: _Array, y: _Array, num_threads: int) -> None: ...
def relu_backward(dy: _Array, y: _Array, dx: _Array, num_threads: int) -> None: ...
def add(x: _Array, r: _Array, y: _Array, relu: bool, num_threads: int) -> None: ...
def activation(x: _Array, y: _Array, kind: int, a: float, num_threads: int) -> None: ...
def activation_backward(
    dy: _Array, y: _Array, dx: _Array, kind: int, a: float, num_threads: int
) -> None: ...
def dropout(x: _Array, y: _Array, seed: int, rate: float, num_threads: int) -> None: ...
def softmax(x: _Array, y: _Array, num_threads: int) -> None: ...
def softmax_backward(dy: _Array, y: _Array, dx: _Array, num_threads: int) -> None: ...
def labels_fit(labels: NDArray[int64], C: int) -> bool: ...
def softmax_cross_entropy(
    x: _Array, labels: NDArray[int64] | None, targets: _Array | None, weights: NDArray[float64] | None,
    smoothing: float, dx: _Array, losses: NDArray[float64], num_threads: int,
) -> float: ...
def elementwise_loss(
    x: _Array, t: _Array, weights: NDArray[float64] | None, logistic: bool, smoothing: float,
    dx: _Array, losses: NDArray[float64], num_threads: int,
) -> float: ...
def adam(
    w: _Array, g: _Array, m: _Array, v: _Array, rate: float, beta_1: float, beta_2: float,
    epsilon: float, kept: float, num_threads: int,
) -> None: ...
def sgd(
    w: _Array, g: _Array, velocity: _Array | None, rate: float, momentum: float, nesterov: bool,
    num_threads: int,
) -> None: ...
def rmsprop(
    w: _Array, g: _Array, v: _Array, velocity: _Array | None, rate: float, rho: float,
    momentum: float, epsilon: float, num_threads: int,
) -> None: ...

# Minibatches: bytes of rows (N, size)

def take_rows(
    x: NDArray[uint8], rows: NDArray[int64], out: NDArray[uint8], num_threads: int
) -> None: ...

# Measuring

def record_items(times: NDArray[float64] | None) -> int: ...
def fma_probe(out: _Array, steps: int) -> int: ...

# Operations of a network, bound to memory

@final
class Buffer:
    @property
    def array(self) -> Any: ...
    def bind(self, array: _Array) -> None: ...

class Operation: ...

@final
class Convolution(Operation):
    def __init__(
        self, plan: ConvPlan, x: Buffer, w: Buffer, b: Buffer | None, relu: bool, y: Buffer,
        dy: Buffer | None = None, dx: Buffer | None = None, dw: Buffer | None = None,
        db: Buffer | None = None, r: Buffer | None = None,
    ) -> None: ...

@final
class TransposedConvolution(Operation):
    def __init__(
        self, plan: ConvPlan, x: Buffer, w: Buffer, b: Buffer | None, relu: bool, y: Buffer,
        dy: Buffer | None = None, dx: Buffer | None = None, dw: Buffer | None = None,
        db: Buffer | None = None,
    ) -> None: ...

@final
class ConvolutionMaxPool(Operation):
    def __init__(
        self, plan: ConvPoolPlan, x: Buffer, w: Buffer, b: Buffer | None, relu: bool, y: Buffer,
        indices: Buffer | None, dy: Buffer | None = None, dx: Buffer | None = None,
        dw: Buffer | None = None, db: Buffer | None = None,
    ) -> None: ...

@final
class Rectify(Operation):
    def __init__(
        self, count: int, x: Buffer, y: Buffer, dy: Buffer | None = None, dx: Buffer | None = None
    ) -> None: ...

@final
class Normalization(Operation):
    def __init__(
        self, plan: BatchNormPlan, epsilon: float, momentum: float, training: bool, relu: bool,
        x: Buffer, gamma: Buffer, beta: Buffer, r: Buffer | None, y: Buffer, mean: Buffer | None,
        var: Buffer | None, moving_mean: Buffer, moving_var: Buffer, dy: Buffer | None = None,
        dx: Buffer | None = None, dgamma: Buffer | None = None, dbeta: Buffer | None = None,
        dr: Buffer | None = None,
    ) -> None: ...
    def add_to_dy(self, more: Buffer) -> None: ...

@final
class AveragePool(Operation):
    def __init__(
        self, x_shape: _Shape, y_shape: _Shape, window: _Pair, stride: _Pair, pads: _Pads, x: Buffer,
        y: Buffer, dy: Buffer | None = None, dx: Buffer | None = None,
    ) -> None: ...

@final
class MaxPool(Operation):
    def __init__(
        self, x_shape: _Shape, y_shape: _Shape, window: _Pair, stride: _Pair, pads: _Pads, x: Buffer,
        y: Buffer, indices: Buffer | None = None, dy: Buffer | None = None, dx: Buffer | None = None,
    ) -> None: ...

@final
class FoldNormalization(Operation):
    def __init__(
        self, inputs: int, C: int, epsilon: float, w: Buffer, b: Buffer | None, gamma: Buffer,
        beta: Buffer, mean: Buffer, var: Buffer, to_w: Buffer, to_b: Buffer, watch: Watch,
    ) -> None: ...

@final
class Fork(Operation):
    def __init__(self, count: int, da: Buffer, db: Buffer, dx: Buffer) -> None: ...

@final
class Sum(Operation):
    def __init__(
        self, count: int, relu: bool, x: Buffer, r: Buffer, y: Buffer, dy: Buffer | None = None,
        dx: Buffer | None = None, dr: Buffer | None = None,
    ) -> None: ...

@final
class Activate(Operation):
    def __init__(
        self, kind: int, a: float, count: int, x: Buffer, y: Buffer, dy: Buffer | None = None,
        dx: Buffer | None = None,
    ) -> None: ...

@final
class Call(Operation):
    def __init__(self, call: Any, call_back: Any = None) -> None: ...

def run_forward(operations: list[Operation], num_threads: int) -> None: ...
def run_backward(operations: list[Operation], num_threads: int) -> None: ...
