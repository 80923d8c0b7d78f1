"""The entries of the kernels; every `_kernels*` module has the same ones.

Arrays are C-contiguous and of the module's own dtype, float32 or float64; axes are in the comments.
Nothing is checked here but dtype, number of axes and contiguity: `pyconv.functional` does the rest.
"""

from typing import Any, final

from numpy import float64, int32, int64
from numpy.typing import NDArray

_Array = NDArray[Any]
_Shape = tuple[int, ...]
_Pair = tuple[int, int]
_Pads = tuple[_Pair, _Pair]

@final
class Workspace: ...

# Convolution

@final
class ConvPlan:
    def __init__(
        self, x: _Shape, w: _Shape, y: _Shape, stride: _Pair, dilation: _Pair, before: _Pair,
        groups: int, direct: bool = False,
    ) -> None: ...
    def algorithm(self, direction: str) -> str: ...
    def forward(
        self, x: _Array, w: _Array, b: _Array | None, relu: bool, y: _Array, num_threads: int
    ) -> None: ...
    def backward(
        self, dy: _Array, x: _Array, w: _Array, dx: _Array | None, dw: _Array | None,
        db: _Array | None, num_threads: int,
    ) -> None: ...

@final
class ConvPoolPlan:
    @property
    def sparse(self) -> bool: ...
    def __init__(
        self, x: _Shape, w: _Shape, z: _Shape, y: _Shape, stride: _Pair, dilation: _Pair, before: _Pair,
        groups: int, window: _Pair, pool_stride: _Pair, pool_pads: _Pads, direct: bool = False,
    ) -> None: ...
    def forward(
        self, x: _Array, w: _Array, b: _Array | None, relu: bool, y: _Array, indices: NDArray[int32],
        num_threads: int,
    ) -> None: ...
    def backward(
        self, dy: _Array, indices: NDArray[int32], x: _Array, w: _Array, dx: _Array | None,
        dw: _Array | None, db: _Array | None, num_threads: int,
    ) -> None: ...

# Directions of a plan; plans make them.

class Depthwise:
    @property
    def work(self) -> int: ...

@final
class DepthwiseGather(Depthwise): ...

@final
class DepthwiseReduce(Depthwise): ...

@final
class Gather:
    @property
    def work(self) -> int: ...

@final
class Reduce:
    @property
    def work(self) -> int: ...

@final
class WideReduce:
    @property
    def work(self) -> int: ...

@final
class Winograd:
    @property
    def work(self) -> int: ...

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
def softmax(x: _Array, y: _Array, num_threads: int) -> None: ...
def softmax_cross_entropy(
    x: _Array, labels: NDArray[int64] | None, targets: _Array | None, dx: _Array,
    losses: NDArray[float64], num_threads: int,
) -> float: ...
def adam(
    w: _Array, g: _Array, m: _Array, v: _Array, rate: float, beta_1: float, beta_2: float,
    epsilon: float, num_threads: int,
) -> None: ...
def sgd(
    w: _Array, g: _Array, velocity: _Array | None, rate: float, momentum: float, nesterov: bool,
    num_threads: int,
) -> None: ...

# Measuring

def record_items(times: NDArray[float64] | None) -> int: ...
def fma_probe(out: _Array, steps: int) -> int: ...
