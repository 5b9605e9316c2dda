"""Reads one image file by Pillow: its header, or its pixels as levels of 8 bits."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from compose.core.errors import DataError
from compose.data.levels import Levels

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

Color = Literal["rgb", "grey", "to_grey"]

#: Formats that Pillow decodes itself, by the endings of their files; others run programs, or hold no pixels.
FORMATS = {
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".pgm": "PPM",
    ".png": "PNG",
    ".ppm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
_GREY = ("1", "L", "LA", "La")
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
_BITS_PER_SAMPLE = 0x0102


class Header(NamedTuple):
    """What a file says of its image.

    Args:
        height: Rows of pixels, as the image is to be seen.
        width: Columns.
        mode: What Pillow calls its kind of pixels: ``L``, ``RGB``.
    """

    height: int
    width: int
    mode: str

    @property
    def colour(self) -> bool:
        """Whether pixels have a colour."""
        return self.mode not in _GREY


def read_header(path: Path) -> Header:
    """What a file says of its image; reads no pixels, and a file that has not changed since once.

    Raises:
        DataError: it cannot be read, or is no image; its pixels are deeper than 8 bits.
    """
    try:
        stat = os.stat(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read as an image: {error.strerror}") from error
    return _header(path, stat.st_ino, stat.st_mtime_ns, stat.st_size)


@cache
def _header(path: Path, file: int, changed: int, size: int) -> Header:
    """The header of a file as it was at a time, with a size; a path may lead elsewhere from another folder."""
    from PIL.Image import Image

    with _opened(path) as image:
        # Pillow decodes a PNG that has not said how it is turned, since that may follow the pixels.
        early = image.format == "PNG" and not _goes_on(path)
        turned = (Image.getexif(image) if early else image.getexif()).get(_ORIENTATION) in _TURNED
        width, height = reversed(image.size) if turned else image.size
        return Header(height, width, image.mode)


def read_pixels(path: Path, color: Color, size: int | None = None) -> Levels:
    """The pixels of an image, ``(channels, height, width)``, 0 to 255.

    Args:
        path: The file.
        color: ``rgb`` for three channels, else one.
        size: Cut the middle square and resize it to this side.

    Raises:
        DataError: as ``read_header``; the pixels are broken, or some are transparent.
    """
    from PIL import ImageOps
    from PIL.Image import Resampling

    with _opened(path) as stored:
        image = ImageOps.exif_transpose(stored)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if image.getchannel("A").getextrema() != (255, 255):
                raise DataError(f"{path} is transparent in places; lay it on a background first.")
        image = image.convert("RGB" if color == "rgb" else "L")
        if size is not None:
            image = ImageOps.fit(image, (size, size), Resampling.LANCZOS)
        pixels = np.asarray(image, np.uint8)
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile]:
    from PIL import Image

    try:
        with Image.open(path, formats=sorted(set(FORMATS.values()))) as image:
            if _deep(image):
                raise DataError(f"{path} has pixels of more than 8 bits ({image.mode}); wanted 256 levels a channel.")
            # A telephone's JPEG may hold a preview or a depth beside the photograph, and is then an MPO.
            if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
                raise DataError(f"{path} holds {frames} images; wanted one a file.")
            yield image
    except DataError:
        raise
    except Exception as error:  # Decoders raise OSError, SyntaxError, ValueError, struct.error and more.
        reason = (str(error) or error.__class__.__name__).splitlines()[0]
        raise DataError(f"{path} cannot be read as an image: {reason}") from error


def _goes_on(path: Path) -> bool:
    """Whether a PNG says something after its pixels."""
    with path.open("rb") as file:
        file.seek(len(b"\x89PNG\r\n\x1a\n"))
        pixels = False
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if pixels and kind != b"IDAT":
                return kind != b"IEND"
            pixels = kind == b"IDAT"
            file.seek(length + 4, os.SEEK_CUR)
    return False


def _deep(image: ImageFile) -> bool:
    """Whether channels have more than 8 bits, which Pillow cuts to 8 in silence where there are several of them."""
    if image.mode[0] in "IF":
        return True
    tags: Any = getattr(image, "tag_v2", None)  # of a TIFF
    if tags is not None:
        return max(tags.get(_BITS_PER_SAMPLE, (1,))) > 8
    if image.format == "PPM":
        return any(isinstance(args, tuple) and args[1] > 255 for *_, args in image.tile)
    return any(str(args).endswith(";16B") for *_, args in image.tile)
