"""Networks and data that the tests of models share: small, and with a layer of every kind."""

import numpy as np

import pyconv
from pyconv import zoo
from pyconv.layers import (
    ELU,
    Activation,
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Conv2DTranspose,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    GlobalMaxPooling2D,
    LeakyReLU,
    MaxPooling2D,
    ReLU,
    Rescaling,
    Residual,
    ZeroPadding2D,
)
from pyconv.model import Sequential

SHAPE = (8, 8, 2)


def small(seed=0, dtype="float32", dropout=0.0, optimizer="adam"):
    """A compiled network of 3 classes with a layer of most kinds."""
    layers = [
        Rescaling(1 / 255, -0.5),
        Conv2D(4, 3, padding="same", activation="relu"),
        MaxPooling2D(2),
        Dropout(dropout),
        Flatten(),
        Dense(3),
    ]
    model = Sequential(layers, input_shape=SHAPE, seed=seed, dtype=dtype)
    model.compile(optimizer)
    return model


def bright_corners():
    """50 images of bytes and their labels, which can be learned: the brighter corner."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, 3, 50)
    x = rng.integers(0, 128, (50, *SHAPE), dtype=np.uint8)
    for image, label in zip(x, y, strict=True):
        image[4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 100
    return x, y


NETWORKS = {
    "signs": lambda: zoo.signs_convnet(3, (16, 16, 3)).layers,
    "dense": lambda: [Flatten(), Dense(5, "relu"), Dense(4, use_bias=False), ReLU(), Dense(3)],
    "all-convolutional": lambda: [
        Conv2D(4, 3, 2, activation="relu"),
        DepthwiseConv2D(3, padding="same", depth_multiplier=2),
        Activation("relu"),
        Conv2D(3, 1),
        GlobalAveragePooling2D(),
    ],
    "mixed": lambda: [
        Rescaling(2.0, 0.25),
        ZeroPadding2D(((1, 0), (0, 2))),
        Conv2D(4, (3, 2), padding="same_lower", dilation_rate=2, use_bias=False),
        ReLU(),
        AveragePooling2D(3, 2, "same"),
        Conv2D(6, 2, groups=2, activation="relu"),
        MaxPooling2D(2, padding="same"),
        Flatten(),
        Dense(3),
    ],
    "down-and-up": lambda: [
        Conv2D(4, 3, 2, "same"),
        LeakyReLU(0.1),
        Conv2DTranspose(5, 4, 2, "same", use_bias=False),
        ELU(0.5),
        Conv2DTranspose(4, 3, 2, ((1, 0), (0, 2)), (0, 1), activation="relu"),
        Activation("tanh"),
        Conv2D(6, 3),
        Activation("sigmoid"),
        GlobalMaxPooling2D(),
        Dense(3),
    ],
    "residual": lambda: [
        Conv2D(4, 3, 2, use_bias=False),
        BatchNormalization(0.9),
        ReLU(),
        Residual([
            Conv2D(6, 3, padding="same"), BatchNormalization(0.5), ReLU(),
            Conv2D(6, 3, padding="same", use_bias=False), BatchNormalization(),
        ], [Conv2D(6, 1), BatchNormalization()]),
        ReLU(),
        Conv2D(5, 3),
        BatchNormalization(0.9, 0.1),
        ReLU(),
        MaxPooling2D(2),
        Residual(Residual(Conv2D(5, 1, activation="relu"))),
        ReLU(),
        Residual([BatchNormalization(), ReLU(), Conv2D(5, 1)]),
        Flatten(),
        Dense(4),
        BatchNormalization(),
        Dense(3),
    ],
}


def trained(seed, callbacks=()):
    """The loss of each epoch and the weights of a LeNet after two, on work that threads share."""
    rng = np.random.default_rng(seed)
    x, y = rng.random((48, 28, 28, 1), np.float32), rng.integers(0, 10, 48)
    model = zoo.lenet5(seed=seed)
    model.compile("adam")
    history = model.fit(x, y, batch_size=24, epochs=2, callbacks=callbacks, verbose=0)
    return history.history["loss"], b"".join(weight.tobytes() for weight in model.get_weights())


def trained_with_threads(seed):
    """How many threads there are here, and what `trained` gives with them."""
    return pyconv.get_num_threads(), trained(seed)


def network(name, dtype="float32"):
    """A new uncompiled model with the layers of `NETWORKS[name]`."""
    layers = [type(layer)(**layer.get_config()) for layer in NETWORKS[name]()]
    return Sequential(layers, input_shape=(16, 16, 3), seed=1, dtype=dtype)
