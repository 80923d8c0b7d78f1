"""Sizes of 2**31 and beyond are refused before anything is allocated."""

import re
import tracemalloc

import numpy as np
import pytest

import pyconv

ONE = np.ones((1, 1, 1, 1), np.float32)
ROW = np.ones((1, 1), np.float32)
INDEX = np.zeros((1, 1, 1, 1), np.int32)


def spread(*shape):
    """An array that large without the memory: all strides are zero."""
    return np.broadcast_to(np.float32(1), shape)


def too_large(name):
    return f"`{name}` is 2147483648; expected "


OUTPUT, COPY = " of shape {} takes {} GiB", "a contiguous copy of `{}` of shape "
REFUSED = [
    # One number that no int32 holds
    *((ValueError, too_large(name), lambda name=name: pyconv.conv2d(ONE, ONE, **{name: 2**31}))
      for name in ("stride", "padding", "dilation", "groups")),
    *((ValueError, too_large(name), lambda name=name: pyconv.conv2d(ONE, ONE, **{name: (1, 2**31)}))
      for name in ("stride", "padding", "dilation")),
    (ValueError, too_large("padding"),
     lambda: pyconv.conv2d(ONE, ONE, padding=((0, 0), (0, 2**31)))),
    (ValueError, f"`padding` is {2**63}; expected", lambda: pyconv.conv2d(ONE, ONE, padding=2**63)),
    (ValueError, f"`stride` is {2**64}; expected", lambda: pyconv.conv2d(ONE, ONE, stride=2**64)),
    (ValueError, f"`stride` is {-2**63}; expected", lambda: pyconv.conv2d(ONE, ONE, stride=-2**63)),
    *((ValueError, too_large(name), lambda name=name, pool=pool: pool(ONE, **{"window": 1, name: 2**31}))
      for name in ("window", "stride", "padding", "dilation")
      for pool in (pyconv.max_pool2d, pyconv.avg_pool2d)),
    (ValueError, f"`x_shape` is (1, 2, {2**31}, 1)",
     lambda: pyconv.max_pool2d_backward(ONE, INDEX, (1, 2, 2**31, 1))),
    (ValueError, f"`x_shape` is ({2**63}, 1, 1, 1)",
     lambda: pyconv.avg_pool2d_backward(ONE, (2**63, 1, 1, 1), 1)),
    (ValueError, f"`num_threads` is {2**31}; expected", lambda: pyconv.relu(ONE, num_threads=2**31)),
    *((ValueError, too_large(name),
       lambda name=name: pyconv.conv2d_transpose(ONE, ONE, **{name: 2**31}))
      for name in ("stride", "padding", "output_padding", "dilation", "groups")),
    (ValueError, f"`x_shape` is (1, {2**31}, 1, 1)",
     lambda: pyconv.global_avg_pool2d_backward(ROW, (1, 2**31, 1, 1))),
    # Windows whose span is beyond 2**31
    (ValueError, "spans 1x2147483648, more than the padded input",
     lambda: pyconv.conv2d(ONE, np.ones((1, 2, 1, 1), np.float32), dilation=2**31 - 1)),
    (ValueError, "spans 4611686011984936963x1, more than the padded input",
     lambda: pyconv.max_pool2d(ONE, (2**31 - 1, 1), dilation=2**31 - 1)),
    # Outputs beyond 2**31 pixels, beyond memory, and beyond what 64 bits count
    (ValueError, "the convolution's output of shape (1, 65537, 65537, 1) has more pixels than int32",
     lambda: pyconv.conv2d_max_pool2d(ONE, ONE, None, 65537, padding=2**15)),
    (MemoryError, "conv2d: an output of shape (1, 268435457, 268435457, 1) takes 268435458.0 GiB",
     lambda: pyconv.conv2d(ONE, ONE, padding=2**27)),
    (MemoryError, "conv2d: an output of shape (1, 4294967295, 4294967295, 1) is larger than any memory",
     lambda: pyconv.conv2d(ONE, ONE, padding=2**31 - 1)),
    (MemoryError, "conv2d_transpose: an output of shape (1, 1073741825, 1073741825, 1) is larger than",
     lambda: pyconv.conv2d_transpose(np.ones((1, 2, 2, 1), np.float32), ONE, stride=2**30)),
    (MemoryError, "conv2d_transpose: an output of shape (1, 4294967295, 4294967295, 1) is larger than",
     lambda: pyconv.conv2d_transpose(np.ones((1, 3, 3, 1), np.float32), ONE, stride=2**31 - 1)),
    (MemoryError, "max_pool2d_backward: an output of shape (1, 65536, 65536, 4096) takes 65536.0 GiB",
     lambda: pyconv.max_pool2d_backward(spread(1, 1, 1, 4096) + 0, np.zeros((1, 1, 1, 4096), np.int32),
                                        (1, 2**16, 2**16, 4096))),
    (MemoryError, "avg_pool2d_backward: an output of shape (1, 268435456, 268435456, 1) takes",
     lambda: pyconv.avg_pool2d_backward(ONE, (1, 2**28, 2**28, 1), 1, stride=2**28)),
    (MemoryError, "dense: an output of shape (1048576, 1048576) takes 4096.0 GiB",
     lambda: pyconv.dense(np.ones((2**20, 1), np.float32), np.ones((1, 2**20), np.float32))),
    # Inputs that are only spread over so much memory, and would be copied
    (MemoryError, "conv2d: a contiguous copy of `x` of shape (1099511627776, 1, 1, 1) takes 4096.0 GiB",
     lambda: pyconv.conv2d(spread(2**40, 1, 1, 1), ONE)),
    (MemoryError, "conv2d: a contiguous copy of `w` of shape (1, 1, 1, 1099511627776) takes",
     lambda: pyconv.conv2d(ONE, spread(1, 1, 1, 2**40))),
    (MemoryError, "conv2d_backward: a contiguous copy of `x`",
     lambda: pyconv.conv2d_backward(ONE, spread(1, 2**28, 2**28, 1), ONE, stride=2**28)),
    (MemoryError, "max_pool2d: a contiguous copy of `x` of shape",
     lambda: pyconv.max_pool2d(spread(2**20, 2**20, 1, 1), 1)),
    (MemoryError, "softmax: a contiguous copy of `x` of shape",
     lambda: pyconv.softmax(spread(2**40, 2))),
    (MemoryError, "global_max_pool2d: a contiguous copy of `x` of shape",
     lambda: pyconv.global_max_pool2d(spread(2**20, 2**20, 1, 1))),
    (MemoryError, "batch_norm: a contiguous copy of `x` of shape",
     lambda: pyconv.batch_norm(spread(2**40, 1), ROW[0], ROW[0])),
    (MemoryError, "relu: a contiguous copy of `x` of shape", lambda: pyconv.relu(spread(2**40))),
]  # fmt: skip


@pytest.mark.parametrize(("error", "text", "call"), REFUSED)
def test_refused_before_anything_is_allocated(error, text, call):
    tracemalloc.start()
    try:
        with pytest.raises(error, match=re.escape(text)):
            call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20  # the arguments of `dense` themselves are 8 MB
