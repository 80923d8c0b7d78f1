"""Batch normalization: the layer with arrays that are not trained, its moving statistics."""

from __future__ import annotations

import numpy as np

from .._arguments import real
from ..functional import batch_norm, batch_norm_backward
from ..program import Program, Value
from .base import Array, Layer, Shape


class BatchNormalization(Layer):
    """Normalize each channel over the batch [1]_, then scale and shift it.

    Parameters
    ----------
    momentum : float in [0, 1), default 0.99
        Of the moving statistics, ``moving = momentum * moving + (1 - momentum) * batch``.
    epsilon : float, default 1e-3
        Added to the variance.

    Notes
    -----
    (H, W, C) -> (H, W, C) or (C,) -> (C,). `gamma` (ones at first) and `beta` (zeros) are trained;
    `moving_mean` (zeros) and `moving_variance` (ones) follow the batches in training, and are used
    in prediction. As in Keras the batch's variance is divided by the number of pixels, there too.

    References
    ----------
    .. [1] Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
       Internal Covariate Shift", 2015, arXiv:1502.03167.

    Examples
    --------
    >>> import numpy as np
    >>> layer = BatchNormalization(momentum=0.5)
    >>> layer.build((2,), np.random.default_rng(0))
    (2,)
    >>> y = layer.forward(np.array([[1.0, 5.0], [3.0, 5.0]]), training=True)
    >>> layer.state["moving_mean"]
    array([1. , 2.5])
    """

    def __init__(self, momentum: float = 0.99, epsilon: float = 1e-3) -> None:
        self.momentum = real(momentum, "momentum", below=1.0)
        self.epsilon = real(epsilon, "epsilon")

    def initial_params(self, input_shape: Shape, rng: np.random.Generator) -> dict[str, Array]:
        return {"gamma": np.ones(input_shape[-1]), "beta": np.zeros(input_shape[-1])}

    def initial_state(self, input_shape: Shape) -> dict[str, Array]:
        C = input_shape[-1]
        return {"moving_mean": np.zeros(C), "moving_variance": np.ones(C)}

    def forward(self, x: Array, training: bool) -> Array:
        gamma, beta = self.params.values()
        mean, var = self.state.values()
        if not training:
            return batch_norm(x, gamma, beta, mean=mean, var=var, epsilon=self.epsilon)
        y, *statistics = batch_norm(
            x, gamma, beta, moving=(mean, var), momentum=self.momentum, epsilon=self.epsilon
        )
        self.cache = x, statistics
        return y

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        x, statistics = self.take_cache()
        need = ("x",) * need_dx + ("gamma", "beta")
        dx, dgamma, dbeta, _ = batch_norm_backward(
            dy, x, *self.params.values(), *statistics, epsilon=self.epsilon, need=need
        )
        self.grads["gamma"][...], self.grads["beta"][...] = dgamma, dbeta
        return dx

    def plan(self, program: Program, x: Value) -> Value:
        return program.normalization(x, self, relu=False)
