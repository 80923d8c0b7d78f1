"""The optimizers' updates of flat arrays, in place."""

from typing import Any

import numpy as np

from .. import _dispatch, _threads
from ..geometry import integer
from ._arrays import Array


def adam_step(
    param: Array, grad: Array, m: Array, v: Array, *, step: int, learning_rate: float,
    beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7, weight_decay: float = 0.0,
    num_threads: int | None = None,
) -> None:
    """One step of Adam on flat arrays, in place, as Kingma and Ba's section 2 orders it.

    m = beta_1 m + (1 - beta_1) g;  v = beta_2 v + (1 - beta_2) g^2;
    param = (1 - learning_rate weight_decay) param
    - learning_rate sqrt(1 - beta_2^step) / (1 - beta_1^step) m / (sqrt(v) + epsilon)

    Parameters
    ----------
    param, m, v : ndarray of shape (n,)
        Updated; C-contiguous, of one dtype.
    grad : ndarray of shape (n,)
    step : int
        1 for the first step.
    weight_decay : float, default 0.0
        AdamW's [2]_.

    References
    ----------
    .. [1] Kingma, Ba, "Adam: A Method for Stochastic Optimization", 2014, arXiv:1412.6980.
    .. [2] Loshchilov, Hutter, "Decoupled Weight Decay Regularization", 2017, arXiv:1711.05101.
    """
    _check_flat("adam_step", param=param, grad=grad, m=m, v=v)
    try:
        step = integer(step, "step", least=1)
    except (TypeError, ValueError) as error:
        raise type(error)(f"adam_step: {error}") from None
    _check_numbers("adam_step", learning_rate=learning_rate, beta_1=beta_1, beta_2=beta_2,
                   epsilon=epsilon, weight_decay=weight_decay)
    rate = learning_rate * (1 - beta_2**step) ** 0.5 / (1 - beta_1**step)
    _dispatch.active.modules[param.dtype.char].adam(
        param, grad, m, v, rate, beta_1, beta_2, epsilon, 1 - learning_rate * weight_decay,
        _threads.resolve(num_threads))


def sgd_step(
    param: Array, grad: Array, velocity: Array | None = None, *, learning_rate: float,
    momentum: float = 0.0, nesterov: bool = False, num_threads: int | None = None,
) -> None:
    """One step of gradient descent on flat arrays, in place.

    velocity = momentum velocity - learning_rate g;  param += velocity, or with `nesterov`
    param += momentum velocity - learning_rate g; without a `velocity`, param -= learning_rate g.

    Parameters
    ----------
    param, velocity : ndarray of shape (n,)
        Updated; C-contiguous, of one dtype. `velocity` is needed where momentum is not 0.
    grad : ndarray of shape (n,)
    """
    _check_flat("sgd_step", param=param, grad=grad, **_velocity("sgd_step", velocity, momentum))
    _check_numbers("sgd_step", learning_rate=learning_rate, momentum=momentum)
    _dispatch.active.modules[param.dtype.char].sgd(
        param, grad, velocity, learning_rate, momentum, nesterov, _threads.resolve(num_threads))


def rmsprop_step(
    param: Array, grad: Array, v: Array, velocity: Array | None = None, *, learning_rate: float,
    rho: float = 0.9, momentum: float = 0.0, epsilon: float = 1e-7, num_threads: int | None = None,
) -> None:
    """One step of RMSprop on flat arrays, in place.

    v = rho v + (1 - rho) g^2;  velocity = momentum velocity + learning_rate g / sqrt(v + epsilon);
    param -= velocity

    Parameters
    ----------
    param, v, velocity : ndarray of shape (n,)
        Updated; C-contiguous, of one dtype. `velocity` is needed where momentum is not 0.
    grad : ndarray of shape (n,)

    References
    ----------
    .. [1] Tieleman, Hinton, "Lecture 6.5 - RMSprop", Neural Networks for Machine Learning, 2012.
    """
    _check_flat("rmsprop_step", param=param, grad=grad, v=v, **_velocity(
        "rmsprop_step", velocity, momentum))
    _check_numbers("rmsprop_step", learning_rate=learning_rate, rho=rho, momentum=momentum,
                   epsilon=epsilon)
    _dispatch.active.modules[param.dtype.char].rmsprop(
        param, grad, v, velocity, learning_rate, rho, momentum, epsilon,
        _threads.resolve(num_threads))


def _velocity(where: str, velocity: Array | None, momentum: float) -> dict[str, Array]:
    if velocity is not None:
        return {"velocity": velocity}
    if momentum:
        raise ValueError(f"{where}: `momentum` is {momentum}, which needs a `velocity` array")
    return {}


def _check_flat(where: str, **arrays: Array) -> None:
    first = arrays["param"]
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.char not in "fd":
            raise TypeError(f"{where}: `{name}` is {type(array).__name__} of dtype "
                            f"{getattr(array, 'dtype', None)}; expected float32 or float64")
        if array.ndim != 1 or array.shape != first.shape or array.dtype != first.dtype:
            raise ValueError(
                f"{where}: `{name}` has shape {array.shape} and dtype {array.dtype}; expected one "
                f"axis and the {first.dtype} of `param` (shape {first.shape})"
            )
        if not array.flags.c_contiguous:
            raise ValueError(f"{where}: `{name}` of shape {array.shape} has strides {array.strides}; "
                             "expected a contiguous array, such as np.ascontiguousarray makes")
        if name != "grad" and not array.flags.writeable:
            raise ValueError(f"{where}: `{name}` of shape {array.shape} is updated in place, but it "
                             "is read-only; pass a copy")


def _check_numbers(where: str, **numbers: Any) -> None:
    for name, number in numbers.items():
        if isinstance(number, (str, bytes)) or not hasattr(number, "__float__"):
            raise TypeError(f"{where}: `{name}` is {number!r}; expected a number")
