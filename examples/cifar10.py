"""vgg_small and resnet20 trained on a part of CIFAR-10 by pyconv, and by PyTorch beside it.

Both start from the same weights, see the same minibatches in the same order, and use the same Adam; what
is left are roundings. So over a few seeds the test accuracies agree within their own scatter.

    python examples/cifar10.py DIR                     DIR holds an .npz with x_train, ..., y_test
    python examples/cifar10.py DIR --library torch     where PyTorch is installed
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np

import pyconv
from pyconv import data, zoo
from pyconv.bench import network_file

NETWORKS = {"vgg_small": zoo.vgg_small, "resnet20": zoo.resnet20}
BATCH, RATE = 64, 1e-3


def scaled(images):
    """Bytes as numbers of mean about 0 and deviation about 1."""
    return (images.astype(np.float32) / 255 - 0.47) / 0.25


def orders(seed, epochs, count):
    """The order of the examples in each epoch; what does not fill a minibatch is left out."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(count)[: count // BATCH * BATCH] for _ in range(epochs)]


def with_pyconv(name, seed, x, y, x_test, y_test, epochs):
    """Train, and return the accuracy on the test images."""
    model = NETWORKS[name](seed=seed)
    model.compile(pyconv.Adam(RATE))
    for order in orders(seed, epochs, len(x)):
        for rows in np.split(order, len(order) // BATCH):
            model.train_on_batch(x[rows], y[rows])
    return model.evaluate(x_test, y_test)[1]


def with_torch(name, seed, x, y, x_test, y_test, epochs):
    """The same in PyTorch, from the same weights."""
    import sys

    import torch

    sys.path.append(str(Path(network_file.__file__).parent))  # the benchmark's scripts stand alone
    import net_torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.npz")
        network_file.write(path, NETWORKS[name](seed=seed), x[:1], y[:1])
        with np.load(path) as file:
            net = net_torch.modules(json.loads(str(file["layers"])), file)
    net = net.to(memory_format=torch.channels_last)
    x, x_test = (torch.from_numpy(a).permute(0, 3, 1, 2) for a in (x, x_test))
    y, y_test = torch.from_numpy(y), torch.from_numpy(y_test)
    adam = torch.optim.Adam(net.parameters(), RATE, eps=1e-7)
    for order in orders(seed, epochs, len(x)):
        for rows in torch.from_numpy(order).split(BATCH):
            adam.zero_grad()
            torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            adam.step()
    with torch.inference_mode():
        return (net.eval()(x_test).argmax(1) == y_test).float().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a folder with one .npz file, as `pyconv train --data` takes it")
    parser.add_argument("--library", choices=("pyconv", "torch"), default="pyconv")
    parser.add_argument("--network", choices=NETWORKS, action="append",
                        help="default: all, one after the other")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    found = data.load_folder(args.data)
    x, x_test = scaled(found.x_train), scaled(found.x_test)
    y, y_test = (np.asarray(labels, np.int64).ravel() for labels in (found.y_train, found.y_test))
    train = with_pyconv if args.library == "pyconv" else with_torch
    for name in args.network or NETWORKS:
        accuracies = []
        for seed in range(args.seeds):
            accuracies.append(train(name, seed, x, y, x_test, y_test, args.epochs))
            print(f"{args.library} {name} seed {seed}: {accuracies[-1]:.3f}", flush=True)
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        print(f"{args.library} {name}: mean {statistics.mean(accuracies):.3f}, deviation {spread:.3f}")


if __name__ == "__main__":
    main()
