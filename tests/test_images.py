"""Image files of any mode, size and orientation as arrays for a network."""

import numpy as np
from PIL import Image

from pyconv.images import read_image


def gradient():
    """Red rises to the right, green falls, blue is constant: a picture with a way up."""
    red = np.tile(np.linspace(0, 255, 40, dtype=np.uint8), (30, 1))
    return np.stack([red, red[:, ::-1], np.full_like(red, 60)], axis=-1)


def image_files(folder):
    """One picture in many formats, each as (file, largest difference from the picture)."""
    picture = Image.fromarray(gradient())
    grey = picture.convert("L")
    half = Image.fromarray(np.repeat(np.uint8([[255, 0]]), 20, axis=1).repeat(30, axis=0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    images = {
        "rgb.png": (picture, {}),
        "rgb.jpg": (picture, {"quality": 95}),
        "cmyk.tif": (picture.convert("CMYK"), {}),
        "ycbcr.tif": (picture.convert("YCbCr"), {}),
        "palette.png": (picture.quantize(256), {}),
        "animated.gif": (picture, {"save_all": True, "append_images": [picture.rotate(180)] * 2}),
        "turned.png": (picture.rotate(90, expand=True), {"exif": exif}),
        "grey.png": (grey, {}),
        "grey16.png": (Image.fromarray(np.asarray(grey, np.uint16) * 257), {}),
        "grey16.tif": (Image.fromarray(np.asarray(grey).astype(">u2") * 257), {}),
        "grey32.tif": (Image.fromarray(np.asarray(grey, np.int32) * 257), {}),
        "float.tif": (Image.fromarray(np.asarray(grey, np.float32)), {}),
        "bilevel.png": (half.convert("1"), {}),
        "rgba.png": (Image.merge("RGBA", (*picture.split(), half)), {}),
        "grey-alpha.png": (Image.merge("LA", (grey, half)), {}),
    }
    for name, (image, options) in images.items():
        image.save(folder / name, **options)
    return images


def test_read_image_of_any_mode(tmp_path):
    images = image_files(tmp_path)
    colour, grey = gradient(), np.asarray(Image.fromarray(gradient()).convert("L"))[..., None]
    expected = {name: grey for name in images if name.startswith(("grey", "float"))}
    half = np.repeat(np.uint8([255, 0]), 20)
    expected["bilevel.png"] = np.tile(half, (30, 1))[..., None]
    opaque = half[:, None] > 0
    expected["rgba.png"] = np.where(opaque, colour, np.uint8(255))
    expected["grey-alpha.png"] = np.where(opaque, grey, np.uint8(255))
    lossy = {"rgb.jpg": 12, "palette.png": 30, "animated.gif": 30, "ycbcr.tif": 3, "cmyk.tif": 3}
    for name in images:
        wanted = expected.get(name, colour)
        got = read_image(tmp_path / name, (30, 40, 3))
        assert got.shape == (30, 40, 3) and got.dtype == np.uint8
        difference = np.abs(got.astype(int) - wanted)
        assert difference.max() <= lossy.get(name, 0), name
        flat = read_image(tmp_path / name, (30, 40, 1))
        assert flat.shape == (30, 40, 1)
        again = np.asarray(Image.fromarray(got).convert("L"))[..., None]
        np.testing.assert_array_equal(flat, again, err_msg=name)
