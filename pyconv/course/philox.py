"""TensorFlow 1's random numbers, from the generator Philox 4x32-10.

Philox is a function of a counter, not a sequence: block `i` of four 32-bit words is `i` and the two
seeds, mixed by ten rounds. Any block can be computed alone, so all are computed here at once.

References
----------
.. [1] Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
"""

from math import prod, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
LOW_32 = 0xFFFFFFFF


def philox_words(blocks: int, *, graph_seed: int, op_seed: int) -> NDArray[np.uint32]:
    """The first `blocks` blocks of Philox 4x32-10, in TensorFlow's layout of key and counter.

    Parameters
    ----------
    blocks : int
        How many blocks of four words.
    graph_seed, op_seed : int, 0 to 2**64 - 1
        The seed of `tf.set_random_seed` is the key; that of the operation is the counter's upper
        half. The lower half counts the blocks from 0.

    Returns
    -------
    words : ndarray of shape (blocks, 4), uint32
    """
    index = np.arange(blocks, dtype=np.uint64)
    counter: list[NDArray[Any]] = [
        *(index & LOW_32, index >> 32),
        *(np.full(blocks, half, np.uint64) for half in (op_seed & LOW_32, op_seed >> 32)),
    ]
    c0, c1, c2, c3 = counter
    k0, k1 = graph_seed & LOW_32, graph_seed >> 32
    for _ in range(ROUNDS):
        # 32 by 32 bits fit in uint64, so the product's upper and lower words are one shift apart.
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = (product1 >> 32) ^ c1 ^ k0, product1 & LOW_32
        c2, c3 = (product0 >> 32) ^ c3 ^ k1, product0 & LOW_32
        k0, k1 = (k0 + KEY_STEPS[0]) & LOW_32, (k1 + KEY_STEPS[1]) & LOW_32
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def random_uniform(shape: tuple[int, ...], *, graph_seed: int, op_seed: int) -> NDArray[np.float32]:
    """`tf.random_uniform(shape, seed=op_seed)` after `tf.set_random_seed(graph_seed)`.

    Parameters
    ----------
    shape : tuple of int
    graph_seed, op_seed : int

    Returns
    -------
    u : ndarray of `shape`, float32, in [0, 1)
        Element `i` in row-major order is word `i % 4` of block `i // 4`.
    """
    size = prod(shape)
    words = philox_words(-(-size // 4), graph_seed=graph_seed, op_seed=op_seed).ravel()[:size]
    # 23 random bits as the fraction of a number in [1, 2), so that every value is exact.
    return ((words & 0x7FFFFF) | 0x3F800000).view(np.float32).reshape(shape) - np.float32(1)


def glorot_uniform(
    shape: tuple[int, ...], *, op_seed: int, graph_seed: int = 1
) -> NDArray[np.float32]:
    """`tf.contrib.layers.xavier_initializer(seed=op_seed)`, to the last bit.

    Parameters
    ----------
    shape : tuple of int
        (KH, KW, C_in, C_out) of a convolution or (inputs, outputs) of a dense layer.
    op_seed : int
        The initializer's own seed, or, for one that was given none, the number of the operation
        in TensorFlow's graph.
    graph_seed : int, default 1
        What the assignment gives to `tf.set_random_seed`.

    Returns
    -------
    w : ndarray of `shape`, float32
        Uniform in [-limit, limit), limit = sqrt(6 / (fan_in + fan_out)).
    """
    *kernel, inputs, outputs = shape
    limit = np.float32(sqrt(6 / (prod(kernel) * (inputs + outputs))))
    return random_uniform(shape, graph_seed=graph_seed, op_seed=op_seed) * (2 * limit) - limit
