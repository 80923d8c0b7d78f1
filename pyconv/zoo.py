"""Ready-made networks, uncompiled. They take images whose values are scaled to about [0, 1]."""

from __future__ import annotations

from ._arguments import named_keywords
from .layers import Conv2D, Dense, Flatten, MaxPooling2D
from .model import Sequential


@named_keywords
def signs_convnet(
    num_classes: int = 6,
    input_shape: tuple[int, int, int] = (64, 64, 3),
    seed: int | None = None,
) -> Sequential:
    """The network of the assignment, for the SIGNS data: two convolutions without biases.

    Parameters
    ----------
    num_classes : int, default 6
    input_shape : (H, W, C), default (64, 64, 3)
    seed : int, optional
        Of weights and shuffling, as in :class:`pyconv.Sequential`.

    Returns
    -------
    model : Sequential
        Uncompiled, with `num_classes` logits.

    Examples
    --------
    >>> signs_convnet().count_params()
    1286
    """
    layers = [
        Conv2D(8, 4, padding="same", activation="relu", use_bias=False),
        MaxPooling2D(8, 8, "same"),
        Conv2D(16, 2, padding="same", activation="relu", use_bias=False),
        MaxPooling2D(4, 4, "same"),
        Flatten(),
        Dense(num_classes),
    ]
    return Sequential(layers, input_shape=input_shape, seed=seed)


@named_keywords
def lenet5(
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (28, 28, 1),
    seed: int | None = None,
) -> Sequential:
    """LeNet-5 [1]_ with today's parts: ReLU, max pooling and full connections between feature maps.

    Parameters
    ----------
    num_classes : int, default 10
    input_shape : (H, W, C), default (28, 28, 1)
        MNIST's; "same" padding in the first convolution stands for the paper's 32x32 images.
    seed : int, optional
        Of weights and shuffling, as in :class:`pyconv.Sequential`.

    Returns
    -------
    model : Sequential
        Uncompiled, with `num_classes` logits.

    References
    ----------
    .. [1] LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.

    Examples
    --------
    >>> lenet5().count_params()
    61706
    """
    layers = [
        Conv2D(6, 5, padding="same", activation="relu"),
        MaxPooling2D(2),
        Conv2D(16, 5, activation="relu"),
        MaxPooling2D(2),
        Flatten(),
        Dense(120, activation="relu"),
        Dense(84, activation="relu"),
        Dense(num_classes),
    ]
    return Sequential(layers, input_shape=input_shape, seed=seed)
