"""The networks of the zoo: their sizes, and their weights bit for bit."""

import hashlib

import numpy as np
import pytest

import pyconv
from pyconv import zoo
from pyconv._dispatch import available_kernels, use

NETWORKS = {
    "signs": zoo.signs_convnet, "lenet5": zoo.lenet5, "vgg-small": zoo.vgg_small,
    "resnet20": zoo.resnet20,
}  # fmt: skip


def test_vgg_small_has_the_paper_s_blocks():
    model = zoo.vgg_small()
    shapes = [layer.output_shape for layer in model.layers]
    assert shapes == [
        *[(32, 32, 32)] * 2, (16, 16, 32), *[(16, 16, 64)] * 2, (8, 8, 64), *[(8, 8, 128)] * 2,
        (4, 4, 128), (2048,), (128,), (10,),
    ]  # fmt: skip
    assert model.count_params() == 550_570
    assert zoo.vgg_small(6, (64, 64, 3)).output_shape == (6,)


def test_resnet20_has_the_paper_s_blocks():
    model = zoo.resnet20()
    shapes = [layer.output_shape for layer in model.layers if "Residual" in type(layer).__name__]
    assert shapes == [*[(32, 32, 16)] * 3, *[(16, 16, 32)] * 3, *[(8, 8, 64)] * 3]
    convolutions = [
        layer
        for each in model.layers
        for layer in (each, *each.inner)
        if type(layer).__name__ == "Conv2D" and layer.kernel_size == (3, 3)
    ]
    assert len(convolutions) + 1 == 20
    assert not any(layer.use_bias for layer in convolutions)
    # The paper's table says 0.27 M.
    assert model.count_params() == 272_474
    assert zoo.resnet20(3, (20, 24, 1)).output_shape == (3,)


def weights_after_50_steps(name, num_threads):
    network = NETWORKS[name]()
    shape = network.input_shape
    network = NETWORKS[name](seed=4)
    network.compile()
    rng = np.random.default_rng(1)
    x = rng.random((4, *shape), np.float32)
    labels = rng.integers(0, *network.output_shape, 4)
    with pyconv.threads(num_threads):
        for step in range(50):
            # The last batch of an epoch is smaller.
            network.train_on_batch(x[: 4 - step % 2], labels[: 4 - step % 2])
    state = hashlib.sha256()
    for array in network.get_weights():
        assert np.isfinite(array).all()
        state.update(array.tobytes())
    return state.hexdigest()


@pytest.mark.parametrize("name", NETWORKS)
def test_same_weights_for_any_number_of_threads_and_on_v3_and_v4(name):
    runs = [(isa, n) for isa, n in (("v3", 2), ("v4", 1), ("v4", 3)) if isa in available_kernels()]
    found = {}
    for isa, num_threads in runs or [("baseline", 1), ("baseline", 2)]:
        with use(isa):
            found[isa, num_threads] = weights_after_50_steps(name, num_threads)
    assert len(set(found.values())) == 1, found
