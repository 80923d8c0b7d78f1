"""Image files as arrays that a network takes: any size, mode and orientation, by Pillow."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

MODES = {1: "L", 3: "RGB"}  # Pillow's name of what a network with so many input channels takes


def read_image(path: str | os.PathLike[str], input_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read an image file and bring it to the size and number of channels of a network's input.

    Parameters
    ----------
    path : path
        Any format that Pillow reads. Of an animation the first frame is taken; the orientation that
        a camera noted (EXIF) is applied; what is transparent becomes white; 16-bit values are
        scaled to 8 bits. The picture is stretched to the new size, as the assignment does it.
    input_shape : (H, W, C)
        C is 1 for grey or 3 for colour.

    Returns
    -------
    ndarray of shape (H, W, C), uint8

    Raises
    ------
    ImportError
        If Pillow is not installed.
    ValueError
        If the file is no image, is damaged or is larger than Pillow lets through, or if C is
        neither 1 nor 3.
    FileNotFoundError
        If there is no such file.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(
            "reading images needs Pillow, which is not installed: pip install 'pyconv-cnn[image]'"
        ) from error
    height, width, channels = input_shape
    if channels not in MODES:
        raise ValueError(
            f"the network takes {channels} channels; image files give 1 (grey) or 3 (colour)"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd files that it can read
            with Image.open(path) as file:
                image = _flat(ImageOps.exif_transpose(file))
        image = image.convert("RGB").convert(MODES[channels])  # not every mode has a way to "L"
    except FileNotFoundError:
        raise
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise ValueError(f"{os.fspath(path)}: cannot be read as an image ({error})") from error
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized).reshape(input_shape)


def _flat(image: Image) -> Image:
    """`image` in 8 bits, on white where it is transparent."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey, which Pillow also keeps as 32-bit integers
        values = np.asarray(image) // 257
        return Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), colour)
    return image
