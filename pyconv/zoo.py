"""Ready-made networks, uncompiled. They take images whose values are scaled to about [0, 1]."""

from __future__ import annotations

from ._arguments import named_keywords
from .layers import (
    BatchNormalization,
    Conv2D,
    Dense,
    Flatten,
    GlobalAveragePooling2D,
    Layer,
    MaxPooling2D,
    ReLU,
    Residual,
)
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


@named_keywords
def vgg_small(
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    seed: int | None = None,
) -> Sequential:
    """A small network after VGG [1]_: three pairs of 3x3 convolutions, each with a max pooling.

    Parameters
    ----------
    num_classes : int, default 10
    input_shape : (H, W, C), default (32, 32, 3)
        CIFAR-10's; at least 8x8.
    seed : int, optional
        Of weights and shuffling, as in :class:`pyconv.Sequential`.

    Returns
    -------
    model : Sequential
        Uncompiled, with `num_classes` logits.

    Notes
    -----
    Weights before a ReLU are He-normal [2]_.

    References
    ----------
    .. [1] Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
       Recognition", 2014, arXiv:1409.1556.
    .. [2] He et al., "Delving Deep into Rectifiers", 2015, arXiv:1502.01852.

    Examples
    --------
    >>> vgg_small().count_params()
    550570
    """
    layers: list[Layer] = []
    for filters in 32, 64, 128:
        for _ in range(2):
            layers.append(Conv2D(filters, 3, padding="same", activation="relu",
                                 kernel_initializer="he_normal"))  # fmt: skip
        layers.append(MaxPooling2D(2))
    layers += [
        Flatten(),
        Dense(128, activation="relu", kernel_initializer="he_normal"),
        Dense(num_classes),
    ]
    return Sequential(layers, input_shape=input_shape, seed=seed)


@named_keywords
def resnet20(
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    seed: int | None = None,
) -> Sequential:
    """The residual network with 20 layers for CIFAR-10 [1]_, of 3 times 3 blocks.

    Parameters
    ----------
    num_classes : int, default 10
    input_shape : (H, W, C), default (32, 32, 3)
    seed : int, optional
        Of weights and shuffling, as in :class:`pyconv.Sequential`.

    Returns
    -------
    model : Sequential
        Uncompiled, with `num_classes` logits.

    Notes
    -----
    Where a block halves the image and doubles the channels, its shortcut is a 1x1 convolution with
    stride 2 and batch normalization (the paper's option B; its own table uses option A, zeros, which
    has 2752 parameters less). Weights are He-normal [2]_, as in the paper.

    References
    ----------
    .. [1] He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385.
    .. [2] He et al., "Delving Deep into Rectifiers", 2015, arXiv:1502.01852.

    Examples
    --------
    >>> resnet20().count_params()
    272474
    """
    layers = [*_conv_norm(16, 3), ReLU()]
    for filters in 16, 32, 64:
        for block in range(3):
            strides = 2 if filters > 16 and block == 0 else 1
            body = [*_conv_norm(filters, 3, strides), ReLU(), *_conv_norm(filters, 3)]
            shortcut = _conv_norm(filters, 1, strides) if strides > 1 else None
            layers += [Residual(body, shortcut), ReLU()]
    layers += [GlobalAveragePooling2D(), Dense(num_classes, kernel_initializer="he_normal")]
    return Sequential(layers, input_shape=input_shape, seed=seed)


def _conv_norm(filters: int, kernel_size: int, strides: int = 1) -> list[Layer]:
    """A convolution without bias, which the normalization behind it has, too."""
    conv = Conv2D(filters, kernel_size, strides, "same", use_bias=False,
                  kernel_initializer="he_normal")  # fmt: skip
    return [conv, BatchNormalization()]
