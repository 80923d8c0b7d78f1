"""Memory of large outputs: kept when they are gone, never shared while they are there."""

import gc

import numpy as np
import pytest

import pyconv
from pyconv._blocks import block, waiting

SIZE = 1 << 20
LIMIT = 1 << 27


def place(memory):
    return np.frombuffer(memory, np.uint8).ctypes.data


@pytest.fixture(autouse=True)
def nothing_waits():
    """A block as large as all that may wait pushes out those of other tests."""
    gc.collect()
    first = block(LIMIT)
    del first
    assert waiting() == (1, LIMIT)
    first = block(LIMIT)
    yield
    del first


def test_memory_is_used_again():
    memory = block(SIZE)
    first = place(memory)
    assert first % 4096 == 0
    assert waiting() == (0, 0)
    del memory
    assert waiting() == (1, SIZE)
    memory = block(SIZE // 2)
    assert place(memory) == first
    assert waiting() == (0, 0)


def test_of_equal_blocks_the_last_is_used_again():
    older, newer = block(SIZE), block(SIZE)
    first = place(newer)
    del older, newer
    assert place(block(SIZE)) == first


@pytest.mark.parametrize("size", [SIZE + 1, SIZE // 2 - 1])
def test_a_block_that_is_too_small_or_much_too_large_waits_on(size):
    memory = block(SIZE)
    del memory
    other = block(size)
    assert waiting() == (1, SIZE)
    assert len(other) == size


def test_the_smallest_that_fits():
    sizes = [SIZE + 300, SIZE + 100, SIZE + 200]
    blocks = [block(size) for size in sizes]
    places = [place(memory) for memory in blocks]
    blocks.clear()
    blocks = [block(SIZE) for _ in sizes]
    assert [place(memory) for memory in blocks] == [places[1], places[2], places[0]]


def test_what_waits_is_bounded():
    blocks = [block(3 * SIZE) for _ in range(100)]
    blocks.clear()
    count, size = waiting()
    assert count == LIMIT // (3 * SIZE) and size == count * 3 * SIZE
    blocks = [block(SIZE // 4) for _ in range(100)]
    blocks.clear()
    assert waiting()[0] == 64
    large = block(LIMIT + 1)
    del large
    assert waiting()[0] == 64


def test_large_pages_start_at_their_border():
    assert place(block(4 * SIZE)) % (2 * SIZE) == 0


def test_a_buffer_can_be_written_and_is_undefined_not_shared():
    arrays = [np.ndarray((SIZE,), np.uint8, block(SIZE)) for _ in range(5)]
    for i, array in enumerate(arrays):
        array[...] = i
    assert [set(array.tolist()) for array in arrays] == [{i} for i in range(5)]


def test_views_keep_an_output(rng):
    x = rng.standard_normal((4, 64, 64, 3)).astype(np.float32)
    w, b = np.ones((1, 1, 3, 8), np.float32), np.zeros(8, np.float32)
    y = pyconv.conv2d(x, w, b)
    assert y.nbytes > 262_144
    part, copy = y[1, ::2][:, 5:], y.copy()
    at = y.ctypes.data
    del y
    others = [pyconv.conv2d(-x, w, b) for _ in range(3)]
    assert all(other.ctypes.data != at for other in others)
    np.testing.assert_array_equal(part, copy[1, ::2][:, 5:])
    del part
    assert pyconv.conv2d(x, w, b).ctypes.data == at


def test_no_memory():
    with pytest.raises(MemoryError, match="a block of"):
        block(1 << 62)
