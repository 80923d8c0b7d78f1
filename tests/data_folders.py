"""Folders of data that the tests of the command line train on."""

import numpy as np


def write_data(folder, size=(12, 12, 3), classes=3, train=50, test=20, seed=0):
    """A folder with one .npz: noise, and a bright corner that tells the class."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for part, n in (("train", train), ("test", test)):
        y = np.arange(n) % classes
        x = rng.integers(0, 120, (n, *size), dtype=np.uint8)
        for i, label in enumerate(y):
            corner = np.s_[: size[0] // 2] if label & 1 else np.s_[size[0] // 2 :]
            x[i, corner, size[1] // 2 * (label >> 1) :][:, : size[1] // 2] += 120
        arrays |= {f"x_{part}": x, f"y_{part}": y}
    folder.mkdir(exist_ok=True)
    np.savez(folder / "set.npz", **arrays)
    return folder
