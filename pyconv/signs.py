"""The embedded data set: drawn hands that show 0 to 5 fingers, in the layout of SIGNS.

A hand is a skeleton of capsules, each a segment with a radius at either end. Its joints bend as
fingers do, the whole is turned before a camera, and what the camera sees of a capsule is a height
over the image plane. The highest wins, neighbours melt into each other, and the relief is lit:

    fingers -> `_skeleton` -> `_place` -> `_relief` -> `_paint` -> images

The same seed gives the same bytes on every machine. All randomness comes from `Generator.random`,
and all arithmetic is + - * / sqrt, minimum and maximum of one element at a time, which IEEE 754
defines to the last bit; it does not define sin, exp or the order of a sum. Angles are therefore
given as t = tan(angle / 2), for the cosine is (1 - t*t) / (1 + t*t) and the sine 2*t / (1 + t*t):

    t                0.09    0.18    0.27    0.41    0.58    1.00    1.73
    angle/degrees    10      20      30      45      60      90      120

The walls are dark for the sake of the assignment's network: its convolutions have no biases, and
before bright walls its rectifiers often die in the first epochs. As it is, that network learns
about 95 % of the training set and 82 % of the test set in its 100 epochs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

CLASSES = 6
TRAIN_PER_CLASS, TEST_PER_CLASS = 180, 20
CHUNK = 8  # images drawn at a time: their planes stay in the processor's cache

# A hand seen from its palm, in units of about the width of the palm: x to the right, y up to the
# fingertips, z to the camera. Each row is a finger, from the thumb to the little finger.
#
#              1  2  3
#              |  |  |  4
#              |  |  |  |
#           0  *--*--*--*  knuckles, the bases of the fingers, y = 1
#            \ |        |
#             \*  palm  |
#              \       /
#               `wrist'    (0, 0)
#
#     base x, y      lengths, base to tip    radii, base to tip            spread
FINGERS = np.array([
    [-0.25, 0.34,   0.40, 0.34, 0.27,       0.190, 0.140, 0.128, 0.100,    0.00],
    [-0.29, 1.00,   0.45, 0.29, 0.22,       0.130, 0.118, 0.108, 0.086,   -0.08],
    [-0.08, 1.05,   0.50, 0.33, 0.24,       0.132, 0.120, 0.110, 0.088,   -0.02],
    [ 0.13, 1.02,   0.46, 0.31, 0.24,       0.126, 0.114, 0.104, 0.084,    0.05],
    [ 0.32, 0.93,   0.36, 0.23, 0.20,       0.112, 0.100, 0.092, 0.074,    0.13],
])

# Half-tangents of the three joints, base to tip: `BEND` to the palm, `SWING` to the little finger.
#    thumb                   any finger
BEND = np.array([
    [[0.50, -0.28, -0.12],  [1.00, 1.15, 0.55]],  # folded
    [[0.10,  0.00,  0.00],  [0.05, 0.05, 0.05]],  # raised
])
SWING = np.array([
    [[-0.16,  0.36,  0.20], [0.00, 0.00, 0.00]],
    [[-0.42,  0.06,  0.00], [0.00, 0.00, 0.00]],
])

# The fingers that people raise for a number, thumb first; its ways are equally likely.
WAYS = (
    ((0, 0, 0, 0, 0),),
    ((0, 1, 0, 0, 0),),
    ((0, 1, 1, 0, 0),),
    ((0, 1, 1, 1, 0), (1, 1, 1, 0, 0)),
    ((0, 1, 1, 1, 1),),
    ((1, 1, 1, 1, 1),),
)

# The capsules in the order in which they are drawn: how many, of what, and how wide the seam is
# over which they melt into what is there already, as a part of their radius.
SKIN, NAIL, CREASE, CLOTH = range(4)
PARTS = (
    (7, SKIN, 0.7),     # palm, ball of the thumb, forearm
    (15, SKIN, 0.3),    # three phalanges a finger
    (5, NAIL, 0.3),
    (3, CREASE, 0.3),   # the lines of the palm
    (1, CLOTH, 0.1),    # sleeve
)

SKIN_TONES = np.array([
    [246, 208, 186], [232, 184, 154], [214, 160, 124], [188, 130, 96], [150, 98, 70], [112, 72, 52],
], dtype=np.float32)
IN_SHADE = np.array([0.42, 0.32, 0.30], dtype=np.float32)  # skin keeps most of its red there
WALL = np.array([24, 50, 66], dtype=np.float32)


def _between(rng: np.random.Generator, low: float, high: float, *shape: int) -> Array:
    return low + (high - low) * rng.random(shape, dtype=np.float32)


def _turn(u: Any, v: Any, t: Any) -> tuple[Any, Any]:
    """Turn the vector (u, v) by the angle of half-tangent `t`."""
    scale = 1 / (1 + t * t)
    cos, sin = (1 - t * t) * scale, 2 * t * scale
    return cos * u - sin * v, sin * u + cos * v


def _capsules(start: Any, end: Any) -> Array:
    """Capsules (n, parts, 2, 4) of two ends (x, y, z, radius), each a number or (n, parts)."""
    numbers = np.broadcast_arrays(*start, *end)
    return np.stack(numbers, axis=-1).reshape(*numbers[0].shape, 2, 4)


def _fingers(raised: Array, rng: np.random.Generator) -> list[Array]:
    """Phalanges and nails of hands whose `raised` (n, 5) fingers are 1, the folded ones 0."""
    n = len(raised)
    length = FINGERS[:, 2:5] * _between(rng, 0.90, 1.10, n, 1, 1)
    radius = FINGERS[:, 5:9] * _between(rng, 0.90, 1.12, n, 1, 1)
    column = [0, 1, 1, 1, 1]
    bend = BEND[raised, column] * _between(rng, 0.9, 1.1, n, 5, 3)
    bend += _between(rng, -0.04, 0.06, n, 5, 3)
    swing = SWING[raised, column] * _between(rng, 0.8, 1.2, n, 5, 3)
    spread = FINGERS[:, 9] * _between(rng, 0.8, 2.6, n, 1)
    swing[:, :, 0] += np.where(raised, spread, 0.3 * spread) + _between(rng, -0.04, 0.04, n, 5)

    # With s and b, the sums of the swings and bends up to a joint, the phalanx after it points
    # along (sin s cos b, cos s cos b, sin b). The thumb begins a little in front of the palm.
    joint = np.zeros((3, n, 5))
    joint[0], joint[1], joint[2, :, 0] = FINGERS[:, 0], FINGERS[:, 1], 0.06
    cos_s, sin_s, cos_b, sin_b = 1.0, 0.0, 1.0, 0.0
    parts = []
    for j in range(3):
        cos_s, sin_s = _turn(cos_s, sin_s, swing[:, :, j])
        cos_b, sin_b = _turn(cos_b, sin_b, bend[:, :, j])
        along = np.stack([sin_s * cos_b, cos_s * cos_b, sin_b])
        start, joint = joint, joint + along * length[:, :, j]
        parts.append(_capsules((*start, radius[:, :, j]), (*joint, radius[:, :, j + 1])))

    # Nails face the back of the hand; that of the thumb faces aside, when folded the camera.
    roll = np.zeros((n, 5))
    roll[:, 0] = np.where(raised[:, 0], 0.5, 1.8)
    cos_r, sin_r = _turn(1.0, 0.0, roll)
    back = np.stack([sin_s * sin_b, cos_s * sin_b, -cos_b])
    side = np.stack([-cos_s, sin_s, np.zeros((n, 5))])
    tip = radius[:, :, 3]
    nail = joint + (cos_r * back + sin_r * side) * 0.38 * tip
    start, end = nail - 0.7 * tip * along, nail + 0.15 * tip * along
    return [*parts, _capsules((*start, 0.72 * tip), (*end, 0.72 * tip))]


def _skeleton(fingers: Array, rng: np.random.Generator) -> Array:
    """Capsules (n, parts, 2, 4) of hands that show so many fingers, in the order of `PARTS`."""
    n = len(fingers)
    choice = rng.random(n)
    ways = [WAYS[k][int(c * len(WAYS[k]))] for k, c in zip(fingers, choice, strict=True)]
    raised = np.array(ways, dtype=np.intp).reshape(n, 5)
    knuckle_x, knuckle_y = FINGERS[1:, 0], FINGERS[1:, 1]
    bones = np.array([-0.1, 0.1])  # the two of the forearm
    lean, cuff = _between(rng, -0.3, 0.3, n, 1), _between(rng, 0.15, 1.4, n, 1)
    zero = np.zeros((n, 1))
    palm = [
        _capsules((knuckle_x * 0.66, 0.14, zero, 0.175), (knuckle_x, knuckle_y - 0.05, 0, 0.15)),
        _capsules((-0.08, 0.12, zero + 0.03, 0.19), (-0.25, 0.34, 0.06, 0.20)),
        _capsules((bones, 0.05, zero, 0.19), (lean * 3 + bones, -3, 0, 0.33)),
    ]
    creases = _capsules(
        (np.array([-0.11, -0.20, -0.04]), np.array([0.66, 0.72, 0.87]), zero + 0.145, 0.014),
        (np.array([0.00, 0.18, 0.36]), np.array([0.34, 0.56, 0.74]), 0.145, 0.014),
    )
    sleeve = _capsules((lean * cuff, -cuff, zero, 0.34 + 0.05 * cuff), (lean * 3, -3, 0, 0.55))
    return np.concatenate([*palm, *_fingers(raised, rng), creases, sleeve], axis=1)


def _place(capsules: Array, rng: np.random.Generator) -> Array:
    """Turn hands before the camera; the image is the unit square, y down."""

    def each(low: float, high: float) -> Array:
        return _between(rng, low, high, len(capsules), 1, 1)

    x, y, z, radius = np.moveaxis(capsules, -1, 0)
    y = y - 0.85
    left_hand, from_behind = np.where(each(0, 1) < 0.5, -1, 1), np.where(each(0, 1) < 0.07, -1, 1)
    x, z = _turn(x * from_behind, z * from_behind, each(-0.2, 0.2))
    y, z = _turn(y, z, each(-0.1, 0.1))
    x, y = _turn(x * left_hand, y, each(-0.18, 0.18))
    scale = each(0.25, 0.33)
    x, y = 0.5 + each(-0.06, 0.06) + x * scale, 0.5 + each(-0.06, 0.06) - y * scale
    return np.stack([x, y, z * scale, radius * scale], axis=-1, dtype=np.float32)


def _span(a: Array, b: Array, reach: Array) -> slice:
    """Pixels on one axis that a capsule from `a` to `b` reaches in any of the images."""
    low, high = (np.minimum(a, b) - reach).min(), (np.maximum(a, b) + reach).max()
    return slice(max(int(low), 0), max(int(high) + 1, 0))


def _smooth_max(a: Array, b: Array, seam: Array) -> Array:
    """The larger of two, rounded off where they differ by less than `seam`."""
    overlap = np.maximum(seam - np.abs(a - b), 0)
    return np.maximum(a, b) + overlap * overlap * (0.25 / seam)


def _relief(capsules: Array, size: int) -> tuple[Array, Array, dict[int, Array]]:
    """What the camera sees of capsules, in planes (n, size, size).

    Returns the height in pixels, how much of a pixel the hand covers, and how much of that is
    nail, crease and cloth instead of skin.
    """
    shape = len(capsules), size, size
    height, depth = np.full(shape, -size, np.float32), np.full(shape, -size, np.float32)
    share = {material: np.zeros(shape, np.float32) for material in (NAIL, CREASE, CLOTH)}
    centre = np.arange(size, dtype=np.float32) + np.float32(0.5)
    ends = np.moveaxis(capsules * np.float32(size), 0, -1)[..., None, None]
    materials = [(material, melt) for count, material, melt in PARTS for _ in range(count)]
    for ((ax, ay, az, ar), (bx, by, bz, br)), (material, melt) in zip(ends, materials, strict=True):
        seam = melt * np.maximum(ar, br)
        reach = 2 * np.maximum(ar, br) + 2
        across, down = _span(ax, bx, reach), _span(ay, by, reach)
        box = slice(None), down, across
        x, y = centre[across] - ax, centre[down, None] - ay
        # t: the nearest place on the axis; q: its radius squared less its distance squared
        ux, uy = bx - ax, by - ay
        scale = 1 / np.maximum(ux * ux + uy * uy, 1e-3)
        t = np.clip(x * (ux * scale) + y * (uy * scale), 0, 1)
        dx, dy = x - t * ux, y - t * uy
        q = ar * ar + t * (br * br - ar * ar) - (dx * dx + dy * dy)
        d = q * (1 / (ar + br))  # near the outline, the distance from it
        z = az + t * (bz - az) + np.sqrt(np.maximum(q, 0)) + 2 * np.minimum(d, 0)
        if material != SKIN:
            seen = np.clip(z - height[box] + 0.5, 0, 1) * np.clip(d + 0.5, 0, 1)
            share[material][box] = np.maximum(share[material][box], seen)
        height[box] = _smooth_max(height[box], z, seam)
        depth[box] = _smooth_max(depth[box], d, seam)
    return height, np.clip(depth + 0.5, 0, 1), share


def _neighbours(plane: Array, axis: int, step: int) -> tuple[Array, Array]:
    """The values `step` pixels before and after each pixel, the border repeated."""
    i = np.arange(plane.shape[axis])
    before, after = np.maximum(i - step, 0), np.minimum(i + step, len(i) - 1)
    return plane.take(before, axis), plane.take(after, axis)


def _blur(plane: Array, *steps: int) -> Array:
    """Binomial (1, 2, 1) / 4 along both axes, once for each distance in `steps`."""
    for step in steps:
        for axis in (1, 2):
            before, after = _neighbours(plane, axis, step)
            plane = (before + 2 * plane + after) * 0.25
    return plane


def _paint(
    height: Array, cover: Array, share: dict[int, Array], rng: np.random.Generator
) -> Images:
    """Light and colour a relief before a wall: images (n, size, size, 3)."""
    n, size = height.shape[:2]
    unit = max(size // 64, 1)  # lengths are in pixels of a picture of 64 x 64

    def each(low: float, high: float, *channels: int) -> Array:
        return _between(rng, low, high, n, 1, 1, *channels)

    # Light falls from above; hollows get less of it.
    light_x, light_y = each(-0.5, 0.5), each(-0.65, -0.2)
    (west, east), (north, south) = _neighbours(height, 2, 1), _neighbours(height, 1, 1)
    slope_x, slope_y = (east - west) * 0.5, (south - north) * 0.5
    facing = 0.75 - light_x * slope_x - light_y * slope_y
    facing /= np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
    hollow = (_blur(np.maximum(height, -2 * unit), unit, 2 * unit) - height) / unit
    light = (0.25 + 0.75 * np.clip(facing, 0, 1)) * np.clip(1 - 0.09 * hollow, 0.55, 1.1)

    tone = _between(rng, 0, len(SKIN_TONES) - 1.001, n)
    i = tone.astype(np.intp)
    part = (tone - i).astype(np.float32)[:, None]
    skin = (SKIN_TONES[i] * (1 - part) + SKIN_TONES[i + 1] * part)[:, None, None]
    colour = skin
    for material, paint in (
        (NAIL, 0.65 * skin + np.array([94, 80, 78], np.float32)),
        (CREASE, skin * np.array([0.80, 0.68, 0.68], np.float32)),
        (CLOTH, each(40, 180)[..., None] + each(-50, 50, 3)),
    ):
        colour = colour + share[material][..., None] * (paint - colour)
    shade = colour * IN_SHADE
    hand = shade + light[..., None] * (1.05 * colour - shade)

    x = np.arange(size, dtype=np.float32)
    y = x[:, None]
    tilt = (x / size - 0.5) * each(-15, 15) + (y / size - 0.5) * each(-15, 15)
    wall = WALL * each(0.85, 1.15)[..., None] + each(-10, 10, 3) + tilt[..., None]
    columns = np.clip(x + 8 * unit * light_x, 0, size - 1).astype(np.intp)
    rows = np.clip(y + 8 * unit * light_y, 0, size - 1).astype(np.intp)
    shadow = _blur(cover, unit, 2 * unit, 3 * unit)[np.arange(n)[:, None, None], rows, columns]
    wall = wall * (1 - 0.4 * shadow)[..., None]

    noise = _between(rng, -6, 6, n, size, size, 3)
    return np.clip(wall + cover[..., None] * (hand - wall) + noise, 0, 255).astype(np.uint8)


def draw(fingers: ArrayLike, rng: np.random.Generator, size: int = 64) -> Images:
    """Draw one hand for each of `fingers`.

    Parameters
    ----------
    fingers : array_like of int, shape (N,)
        How many fingers each hand shows, 0 to 5.
    rng : numpy.random.Generator
        Decides everything else: pose, proportions, skin, sleeve, wall, light and noise.
    size : int, default 64
        Height and width of an image in pixels, at least 16. Noise is a pixel wide at any size.

    Returns
    -------
    images : ndarray of shape (N, size, size, 3), uint8
        RGB.

    Raises
    ------
    TypeError
        If `rng` is not a Generator.
    ValueError
        If `fingers` is not a vector of integers from 0 to 5, or `size` not an integer from 16 up.

    Notes
    -----
    Less than 1 ms an image of 64 x 64; the time is proportional to the number of pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import signs
    >>> signs.draw([0, 5], np.random.default_rng(1)).shape
    (2, 64, 64, 3)
    """
    shown = np.asarray(fingers)
    if shown.ndim != 1 or (shown.size and shown.dtype.kind not in "iu"):
        raise ValueError(
            f"draw: `fingers` must be a vector of integers, got shape {shown.shape} and dtype "
            f"{shown.dtype}; for one hand pass a list of one number"
        )
    if shown.size and not 0 <= shown.min() <= shown.max() < CLASSES:
        raise ValueError(
            f"draw: `fingers` must lie in 0..{CLASSES - 1}, got {shown.min()} to {shown.max()}"
        )
    if not isinstance(size, int | np.integer) or size < 16:
        raise ValueError(f"draw: `size` must be an integer of at least 16 (pixels), got {size!r}")
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"draw: `rng` must be a numpy.random.Generator, such as np.random.default_rng(0), "
            f"got {rng!r}"
        )
    hands = _place(_skeleton(shown, rng), rng)
    images = np.empty((len(shown), size, size, 3), dtype=np.uint8)
    for start in range(0, len(shown), CHUNK):
        chunk = slice(start, start + CHUNK)
        images[chunk] = _paint(*_relief(hands[chunk], size), rng)
    return images


def load(*, seed: int = 0) -> tuple[Images, Labels, Images, Labels, Labels]:
    """Draw the data set: the arrays that the assignment's `load_dataset` reads from its files.

    Parameters
    ----------
    seed : int, default 0
        Another seed draws other hands and shuffles them otherwise.

    Returns
    -------
    X_train : ndarray of shape (1080, 64, 64, 3), uint8
        180 hands a class.
    Y_train : ndarray of shape (1, 1080), int64
        How many fingers are shown.
    X_test : ndarray of shape (120, 64, 64, 3), uint8
        20 hands a class.
    Y_test : ndarray of shape (1, 120), int64
    classes : ndarray of shape (6,), int64
        0 to 5.

    Notes
    -----
    About one second on one core. The same seed gives the same bytes on every machine.

    Examples
    --------
    >>> from pyconv import signs
    >>> X_train, Y_train, X_test, Y_test, classes = signs.load()
    >>> X_train.shape, Y_train.shape
    ((1080, 64, 64, 3), (1, 1080))
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    classes = np.arange(CLASSES, dtype=np.int64)

    def shuffled(per_class: int) -> Labels:
        y = np.repeat(classes, per_class)
        return y[np.argsort(rng.random(len(y)), kind="stable")]

    Y_train, Y_test = shuffled(TRAIN_PER_CLASS), shuffled(TEST_PER_CLASS)
    X_train, X_test = draw(Y_train, rng), draw(Y_test, rng)
    return X_train, Y_train[None], X_test, Y_test[None], classes
