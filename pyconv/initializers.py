"""Initial values of weights: constants, and draws scaled by a neuron's number of inputs.

A draw has the variance gain / fan; the name says which gain, which fan and which distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ._arguments import choose

# Standard deviation of a normal distribution cut off at two standard deviations.
TRUNCATED_STD = 0.8796256610342398


def uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Draws of mean 0 and variance 1 from a uniform distribution."""
    return rng.uniform(-math.sqrt(3), math.sqrt(3), shape)


def truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Draws of mean 0 and variance 1 from a normal distribution cut off at two deviations."""
    z = rng.standard_normal(shape)
    while (outside := np.abs(z) > 2).any():
        z[outside] = rng.standard_normal(np.count_nonzero(outside))
    return z / TRUNCATED_STD


Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]

# name -> (gain, weight of fan_in in the fan, distribution); Glorot's fan is the mean of both.
SCALED: dict[str, tuple[float, float, Draw]] = {
    "glorot_uniform": (1.0, 0.5, uniform),
    "glorot_normal": (1.0, 0.5, truncated_normal),
    "he_uniform": (2.0, 1.0, uniform),
    "he_normal": (2.0, 1.0, truncated_normal),
    "lecun_uniform": (1.0, 1.0, uniform),
    "lecun_normal": (1.0, 1.0, truncated_normal),
}
CONSTANT = {"zeros": 0.0, "ones": 1.0}
NAMES = (*SCALED, *CONSTANT)


def initial_values(
    name: str, shape: tuple[int, ...], fan_in: int, fan_out: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Initial weights of `shape` by the scheme `name`, as Keras defines it.

    Parameters
    ----------
    name : str
        One of ``glorot_uniform`` [1]_, ``glorot_normal``, ``he_uniform`` [2]_, ``he_normal``,
        ``lecun_uniform``, ``lecun_normal``, ``zeros``, ``ones``.
    shape : tuple of int
    fan_in, fan_out : int
        Inputs of one output and outputs of one input: for a convolution KH * KW * C_in / groups
        and KH * KW * C_out / groups.
    rng : numpy.random.Generator

    Raises
    ------
    ValueError
        If `name` is unknown.

    References
    ----------
    .. [1] Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
       networks", 2010.
    .. [2] He et al., "Delving Deep into Rectifiers", 2015, arXiv:1502.01852.

    Examples
    --------
    >>> import numpy as np
    >>> w = initial_values("glorot_uniform", (100, 50), 100, 50, np.random.default_rng(0))
    >>> bool(abs(w).max() <= (6 / 150) ** 0.5)
    True
    """
    choose(name, "initializer", NAMES)
    if name in CONSTANT:
        return np.full(shape, CONSTANT[name])
    gain, share_in, draw = SCALED[name]
    fan = share_in * fan_in + (1 - share_in) * fan_out
    return draw(rng, shape) * math.sqrt(gain / fan)
