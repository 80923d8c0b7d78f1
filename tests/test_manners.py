"""Any valid array works, whatever its memory looks like, and comes back as it was.

Non-contiguous, reversed, broadcast, Fortran-ordered, read-only, memory-mapped, empty: always the
bits that a plain copy of the array gives. Too much to allocate is a MemoryError. Two Python threads
may share their input.
"""

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from numpy.testing import assert_array_equal
from operations import OPERATIONS, digest, inputs

import pyconv


def every_second(array):
    """`array` as every second element, along every axis, of a larger one full of NaN."""
    larger = np.zeros([2 * size + 1 for size in array.shape], array.dtype)
    if array.dtype.kind == "f":
        larger.fill(np.nan)
    larger[tuple(slice(1, None, 2) for _ in array.shape)] = array
    return larger[tuple(slice(1, None, 2) for _ in array.shape)]


def backwards(array):
    """`array` with negative strides along every axis."""
    reverse = (slice(None, None, -1),) * array.ndim
    return np.ascontiguousarray(array[reverse])[reverse]


def last_axis_first(array):
    """`array` stored as NCHW is: the channels are the first axis in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, -1, 0)), 0, -1)


def zero_strides(array):
    """The first slice of `array` along its first axis, repeated without being stored again."""
    return np.broadcast_to(array[:1], array.shape)


def all_one_value(array):
    """The first element of `array` everywhere: all strides are zero."""
    return np.broadcast_to(array.ravel()[0], array.shape)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def unaligned_start(array):
    """`array` one element into a buffer, so that no vector in it is aligned."""
    buffer = np.empty(array.size + 1, array.dtype)
    buffer[1:] = array.ravel()
    return buffer[1:].reshape(array.shape)


def inside_a_row(array):
    """`array` as part of a row: its last axis is contiguous, the others are too far apart."""
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(2, 3)])[..., 2:-3]


SHAPES_OF_MEMORY = [
    every_second, backwards, last_axis_first, np.asfortranarray, zero_strides, all_one_value,
    read_only, inside_a_row,
]  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shaped", SHAPES_OF_MEMORY)
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_any_memory_gives_the_same_bits_and_is_not_changed(operation, shaped, batch, dtype):
    odd = [shaped(array) for array in inputs(operation, batch, dtype)]
    plain = [np.array(array, order="C") for array in odd]
    assert digest(operation.run(*odd)) == digest(operation.run(*plain))
    for array, before in zip(odd, plain, strict=True):
        assert_array_equal(array, before)


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_inputs_are_not_changed(operation, dtype, isa):
    arrays = inputs(operation, 3, dtype)
    before = digest(arrays)
    results = operation.run(*arrays)
    assert digest(arrays) == before
    for result, array in itertools.product(results, arrays):
        assert not np.shares_memory(result, array)


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_unaligned(operation, dtype, isa):
    """Contiguous arrays are not copied: the kernels see the odd addresses."""
    plain = inputs(operation, 3, dtype)
    odd = [unaligned_start(array) for array in plain]
    assert digest(operation.run(*odd)) == digest(operation.run(*plain))


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_memory_mapped(operation, tmp_path):
    mapped = []
    for number, array in enumerate(inputs(operation, 2, np.float32)):
        np.save(tmp_path / f"{number}.npy", array)
        mapped.append(np.load(tmp_path / f"{number}.npy", mmap_mode="r"))
    plain = [np.array(array) for array in mapped]
    assert digest(operation.run(*mapped)) == digest(operation.run(*plain))


@pytest.mark.parametrize("stride", [0, 4, -8, 12345, -(2**40)])
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_the_stride_of_an_axis_of_size_one_means_nothing(operation, stride):
    """NumPy sets it to anything, and calls the array contiguous all the same."""
    plain = inputs(operation, 1, np.float32)
    odd = [
        as_strided(array, strides=[stride if size == 1 else step for size, step in
                                   zip(array.shape, array.strides, strict=True)])
        for array in plain
    ]  # fmt: skip
    assert digest(operation.run(*odd)) == digest(operation.run(*plain))


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_empty_batch(operation, dtype, isa):
    """N = 0: outputs per image are empty; gradients of parameters and the loss are zero."""
    arrays = inputs(operation, 0, dtype)
    of_eleven = operation.run(*inputs(operation, 11, dtype))
    for empty, full in zip(operation.run(*arrays), of_eleven, strict=True):
        expected = (0, *full.shape[1:]) if full.shape[:1] == (11,) else full.shape
        assert (empty.shape, empty.dtype) == (expected, full.dtype)
        assert_array_equal(empty, np.zeros(expected))


# ------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    "ask",
    [
        lambda one: pyconv.conv2d(one, one, padding=2**27),
        lambda one: pyconv.max_pool2d(one, 2**22, stride=1, padding=2**22 - 1),
        lambda one: pyconv.max_pool2d_backward(
            np.broadcast_to(one, (1, 1, 1, 2**14)),
            np.zeros((1, 1, 1, 2**14), np.int32),
            (1, 2**15, 2**15, 2**14),
        ),
        lambda one: pyconv.avg_pool2d(one, 2**22, stride=1, padding=2**22 - 1),
        lambda one: pyconv.avg_pool2d_backward(one, (1, 2**28, 2**28, 1), 1, stride=2**28),
        lambda one: pyconv.conv2d(np.broadcast_to(one, (2**56, 1, 1, 1)), one),
        lambda one: pyconv.conv2d_backward(
            one, np.broadcast_to(one, (1, 2**28, 2**28, 1)), one, stride=2**28
        ),
        lambda one: pyconv.dense(
            np.broadcast_to(one[0, 0], (2**24, 1)), np.broadcast_to(one[0, 0], (1, 2**24))
        ),
        lambda one: pyconv.relu(np.broadcast_to(one, (2**28, 2**28, 1, 1))),
    ],
    ids=["conv2d", "max_pool2d", "max_pool2d_backward", "avg_pool2d", "avg_pool2d_backward",
         "conv2d-batch", "conv2d_backward", "dense", "relu"],
)  # fmt: skip
def test_results_larger_than_memory_are_a_memory_error(ask, dtype):
    with pytest.raises(MemoryError):
        ask(np.ones((1, 1, 1, 1), dtype))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS works on Linux only")
def test_running_out_of_memory_anywhere_is_a_memory_error(run_python):
    """Under ever higher limits every call gives the right bits or a MemoryError, never a crash."""
    code = """
import resource
import numpy as np
from operations import OPERATIONS, digest, inputs
from pathlib import Path

operations = [op for op in OPERATIONS if "pool" in op.name or "conv" in op.name]
for op in operations:
    op.run(*inputs(op, 4, np.float32), num_threads=2)  # starts the threads
failed = succeeded = 0
for step in range(16):
    for op in operations:
        arrays = inputs(op, 60 + step, np.float32)  # a new batch size: new workspaces
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + step * 65_536
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        try:
            results = op.run(*arrays, num_threads=2)
        except MemoryError:
            results = None
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        if results is None:
            failed += 1
        else:
            succeeded += 1
            assert digest(results) == digest(op.run(*arrays, num_threads=1)), op.name
print("done" if failed > 20 and succeeded > 20 else (failed, succeeded))
"""
    # glibc: give what is freed back to the system, or it would hide the limit.
    done = run_python(code, MALLOC_MMAP_THRESHOLD_="4096", MALLOC_TRIM_THRESHOLD_="0")
    assert done.stdout == "done\n", done.stderr


# ------------------------------------------------------------------------------------ threads


def test_two_python_threads_sharing_their_input(alarm, dtype):
    problems = [(operation, inputs(operation, 4, dtype)) for operation in OPERATIONS]
    expected = [digest(operation.run(*arrays)) for operation, arrays in problems]

    def work(_):
        return [digest(operation.run(*arrays)) for operation, arrays in problems * 5]

    with alarm(60), ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, range(2))) == [expected * 5] * 2
