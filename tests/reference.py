"""Convolution and its gradients in NumPy, one einsum a tap, in float64.

For shapes with too many products for the loops of `oracle.py`; `test_oracle.py` compares the two.
"""

import numpy as np
import oracle


def _padded(x, w, stride, padding, dilation, groups):
    """x padded and split in groups, w split in groups, and the pixels of each tap."""
    (OH, _, _), (OW, _, _) = oracle.geometry(x.shape, w.shape[:2], stride, padding, dilation)
    (sh, sw), (dh, dw) = oracle.pair(stride), oracle.pair(dilation)
    xp, image = oracle.zero_pad(x.astype(float), w.shape[:2], stride, padding, dilation)
    taps = {
        (ky, kx): (
            slice(None),
            slice(ky * dh, ky * dh + (OH - 1) * sh + 1, sh),
            slice(kx * dw, kx * dw + (OW - 1) * sw + 1, sw),
        )
        for ky, kx in np.ndindex(w.shape[:2])
    }
    wg = w.astype(float).reshape(*w.shape[:3], groups, -1)
    return xp.reshape(*xp.shape[:3], groups, -1), wg, taps, image, (x.shape[0], OH, OW)


def conv2d(x, w, b=None, *, stride=1, padding="valid", dilation=1, groups=1):
    """y in float64."""
    xp, wg, taps, _, shape = _padded(x, w, stride, padding, dilation, groups)
    y = sum(np.einsum("nhwgi,igo->nhwgo", xp[pixels], wg[tap]) for tap, pixels in taps.items())
    return y.reshape(*shape, w.shape[3]) + (0.0 if b is None else b)


def conv2d_backward(dy, x, w, *, stride=1, padding="valid", dilation=1, groups=1):
    """(dx, dw, db) in float64."""
    xp, wg, taps, image, _ = _padded(x, w, stride, padding, dilation, groups)
    dyg = dy.astype(float).reshape(*dy.shape[:3], groups, -1)
    dxp, dw = np.zeros_like(xp), np.zeros_like(wg)
    for tap, pixels in taps.items():
        dxp[pixels] += np.einsum("nhwgo,igo->nhwgi", dyg, wg[tap])
        dw[tap] = np.einsum("nhwgo,nhwgi->igo", dyg, xp[pixels])
    return dxp[image].reshape(x.shape), dw.reshape(w.shape), dy.astype(float).sum((0, 1, 2))
