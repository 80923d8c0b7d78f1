"""Optimizers: one update of all parameters, which lie in one flat buffer.

The formulas, names and defaults are Keras's. `iterations` counts the updates; `slots` are the
optimizer's memory (moments, velocity), flat arrays as long as the parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._arguments import Configurable, did_you_mean, real
from .functional import adam_step, rmsprop_step, sgd_step

Array = NDArray[Any]


class Optimizer(Configurable):
    """Base of all optimizers: a subclass names its slots and defines `update`.

    Parameters
    ----------
    learning_rate : float
        May be changed between updates.

    Attributes
    ----------
    iterations : int
        Updates done.
    slots : dict of str to ndarray
        Zeros at first, allotted at the first update.
    """

    slot_names: tuple[str, ...] = ()

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = real(learning_rate, "learning_rate")
        self.iterations = 0
        self.slots: dict[str, Array] = {}

    def apply(self, params: Array, grads: Array) -> None:
        """Update `params` in place.

        Parameters
        ----------
        params, grads : ndarray of shape (P,), one dtype
            All parameters of a model, and the gradients of the loss by them.

        Raises
        ------
        ValueError
            If the slots belong to parameters of another number or dtype.
        """
        if len(self.slots) < len(self.slot_names):
            self.slots = {name: np.zeros_like(params) for name in self.slot_names}
        for slot in self.slots.values():
            if slot.shape != params.shape or slot.dtype != params.dtype:
                raise ValueError(
                    f"this {type(self).__name__} has updated {slot.size} parameters of {slot.dtype}"
                    f", and now gets {params.size} of {params.dtype}; give each model its own"
                )
        self.iterations += 1
        self.update(params, grads)

    def update(self, params: Array, grads: Array) -> None:
        """One step on `params`; `slots` are there, `iterations` counts this step already."""
        raise NotImplementedError(f"{type(self).__name__} defines no update")


class SGD(Optimizer):
    """Stochastic gradient descent.

    Parameters
    ----------
    learning_rate : float, default 0.01
    momentum : float in [0, 1), default 0.0
    nesterov : bool, default False

    Notes
    -----
    ``params -= lr * g``; with momentum ``velocity = momentum * velocity - lr * g`` and
    ``params += velocity``, or Nesterov's ``params += momentum * velocity - lr * g``.
    """

    def __init__(
        self, learning_rate: float = 0.01, momentum: float = 0.0, nesterov: bool = False
    ) -> None:
        super().__init__(learning_rate)
        self.momentum = real(momentum, "momentum", below=1.0)
        self.nesterov = bool(nesterov)
        self.slot_names = ("velocity",) if self.momentum else ()

    def update(self, params: Array, grads: Array) -> None:
        sgd_step(
            params,
            grads,
            self.slots.get("velocity"),
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
        )


class Adam(Optimizer):
    """Adam [1]_.

    Parameters
    ----------
    learning_rate : float, default 0.001
    beta_1, beta_2 : float in [0, 1), default 0.9 and 0.999
        Decay of the first and second moment.
    epsilon : float, default 1e-7
        The paper's "epsilon hat": it is added to the root of the uncorrected moment.

    Notes
    -----
    ``m = b1 * m + (1 - b1) * g``, ``v = b2 * v + (1 - b2) * g**2``,
    ``params -= lr * sqrt(1 - b2**t) / (1 - b1**t) * m / (sqrt(v) + epsilon)``.

    References
    ----------
    .. [1] Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2014, arXiv:1412.6980.
    """

    slot_names = ("m", "v")
    weight_decay = 0.0  # AdamW's, which is otherwise the same

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
    ) -> None:
        super().__init__(learning_rate)
        self.beta_1 = real(beta_1, "beta_1", below=1.0)
        self.beta_2 = real(beta_2, "beta_2", below=1.0)
        self.epsilon = real(epsilon, "epsilon")

    def update(self, params: Array, grads: Array) -> None:
        adam_step(
            params,
            grads,
            self.slots["m"],
            self.slots["v"],
            step=self.iterations,
            learning_rate=self.learning_rate,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            weight_decay=self.weight_decay,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay [1]_.

    Parameters
    ----------
    learning_rate, beta_1, beta_2, epsilon : see :class:`Adam`
    weight_decay : float, default 0.004
        Each update first takes ``learning_rate * weight_decay`` of every parameter, biases too.

    References
    ----------
    .. [1] Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2017, arXiv:1711.05101.
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon)
        self.weight_decay = real(weight_decay, "weight_decay")


class RMSprop(Optimizer):
    """RMSprop: each gradient divided by the root of its recent mean square.

    Parameters
    ----------
    learning_rate : float, default 0.001
    rho : float in [0, 1), default 0.9
        Decay of the mean square.
    momentum : float in [0, 1), default 0.0
    epsilon : float, default 1e-7
        Added under the root.

    Notes
    -----
    ``v = rho * v + (1 - rho) * g**2``, ``step = lr * g / sqrt(v + epsilon)``, ``params -= step``;
    with momentum ``velocity = momentum * velocity + step``, ``params -= velocity``.
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
    ) -> None:
        super().__init__(learning_rate)
        self.rho = real(rho, "rho", below=1.0)
        self.momentum = real(momentum, "momentum", below=1.0)
        self.epsilon = real(epsilon, "epsilon")
        self.slot_names = ("v", "velocity") if self.momentum else ("v",)

    def update(self, params: Array, grads: Array) -> None:
        rmsprop_step(
            params,
            grads,
            self.slots["v"],
            self.slots.get("velocity"),
            learning_rate=self.learning_rate,
            rho=self.rho,
            momentum=self.momentum,
            epsilon=self.epsilon,
        )


OPTIMIZERS: dict[str, type[Any]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
}


def get(optimizer: str | Optimizer) -> Optimizer:
    """The optimizer itself, or a new one of that name (in any case) with its defaults.

    >>> get("sgd").learning_rate
    0.01
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    if isinstance(optimizer, str) and optimizer.lower() in OPTIMIZERS:
        return OPTIMIZERS[optimizer.lower()]()
    raise ValueError(
        f"`optimizer` is {optimizer!r}; expected an Optimizer or a name, "
        f"{did_you_mean(optimizer, OPTIMIZERS)}"
    )
