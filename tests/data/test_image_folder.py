"""Folders of images: what is read, and what each unfit folder is answered with."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from compose.core import registry
from compose.core.errors import DataError
from compose.core.spaces import Codes
from compose.data import image_folder as room
from compose.data.image_folder import ImageFolder
from compose.recipe.check import check

Pixels = NDArray[np.uint8]


def pixels(seed: int, *shape: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 colour images of 6x5 under two names of folders."""
    for i in range(20):
        write(tmp_path / ("cats" if i % 3 else "dogs") / f"{i:02}.png", pixels(i, 6, 5, 3))
    return tmp_path


def write(path: Path, array: Pixels, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def rows(source: Any) -> set[bytes]:
    return {x.numpy().tobytes() for name in ("train", "validation", "test") for x in source.split(name).x}


def test_every_image_is_in_one_split(folder: Path) -> None:
    part = ImageFolder(folder=folder, validation=0.2)
    source = part.load()
    assert part.spaces() == (source.space, None) == (Codes((3, 6, 5), 256), None)
    assert source.describe() == "images, 256 levels, 3x6x5, 14/4/2"
    assert rows(source) == {pixels(i, 6, 5, 3).transpose(2, 0, 1).tobytes() for i in range(20)}
    assert source.protocol("test")["images"] == "rgb, as stored"
    assert source.train.x.dtype == torch.uint8


def test_splits_belong_to_the_names(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same files elsewhere, made in another order, are split alike."""
    other = tmp_path_factory.mktemp("other")
    for path in sorted(folder.rglob("*.png"), reverse=True):
        (other / path.relative_to(folder)).parent.mkdir(exist_ok=True)
        (other / path.relative_to(folder)).write_bytes(path.read_bytes())
    assert ImageFolder(folder=other).load().digest == ImageFolder(folder=folder).load().digest
    (other / "dogs" / "00.png").rename(other / "dogs" / "another.png")
    assert ImageFolder(folder=other).load().digest != ImageFolder(folder=folder).load().digest


def test_labels_are_the_names_of_folders(folder: Path) -> None:
    part = ImageFolder(folder=folder, labels=True)
    source = part.load()
    assert part.spaces()[1] == source.condition == Codes((), 2, ordered=False)
    label = {pixels(i, 6, 5, 3).transpose(2, 0, 1).tobytes(): int(i % 3 == 0) for i in range(20)}
    for name in ("train", "validation", "test"):
        split = source.split(name)
        assert split.y is not None and split.y.tolist() == [label[x.numpy().tobytes()] for x in split.x]


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """Folders of splits with folders of labels in them."""
    for j, (name, count) in enumerate((("train", 4), ("validation", 2), ("test", 3))):
        for i in range(count):
            write(tmp_path / name / f"label {i % 2}" / f"{i}.png", pixels(10 * j + i, 4, 4))
    return tmp_path


def test_folders_of_splits(split: Path) -> None:
    source = ImageFolder(folder=split, color="grey", labels=True).load()
    assert [len(source.split(name)) for name in ("train", "validation", "test")] == [4, 2, 3]
    seen = [x[0].numpy().tobytes() for x in source.train.x]
    order = [seen.index(pixels(i, 4, 4).tobytes()) for i in range(4)]
    assert sorted(order) == [0, 1, 2, 3]
    assert source.train.y is not None and [int(source.train.y[at]) for at in order] == [0, 1, 0, 1]


@pytest.mark.parametrize("splits", [False, True])
def test_the_first_examples_of_a_split_are_of_all_classes(tmp_path: Path, splits: bool) -> None:
    """Measures look at the first ones, and a disk has them class by class."""
    for name in ("train", "validation", "test"):
        for i in range(60):
            write(tmp_path / (name if splits else "") / f"label {i // 15}" / f"{name} {i}.png", pixels(i, 2, 2))
    source = ImageFolder(folder=tmp_path, color="grey", labels=True, validation=0.3, test=0.3).load()
    for name in ("train", "validation", "test"):
        y = source.split(name).y
        assert y is not None and set(y[:20].tolist()) == {0, 1, 2, 3}


def test_sizes_are_made_one(folder: Path) -> None:
    """The middle square, by hand and then resized; an image of that size already stays as it is."""
    wide = pixels(99, 8, 20, 3)
    write(folder / "cats" / "wide.png", wide)
    square = pixels(98, 8, 8, 3)
    write(folder / "cats" / "square.png", square)
    part = ImageFolder(folder=folder, size=8)
    assert part.spaces()[0] == Codes((3, 8, 8), 256)
    found = rows(part.load())
    assert wide[:, 6:14].transpose(2, 0, 1).tobytes() in found
    assert square.transpose(2, 0, 1).tobytes() in found
    assert part.load().protocol("test")["images"] == "rgb, middle square, resized to 8"


def test_resizing_keeps_what_is_smooth(tmp_path: Path) -> None:
    """A ramp from left to right, four times as large as it is wanted."""
    ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8), (64, 64)).copy()
    for i in range(3):
        write(tmp_path / f"{i}.png", ramp)
    x = ImageFolder(folder=tmp_path, size=16, color="grey").load().train.x[0, 0].float()
    assert (x - torch.linspace(6, 249, 16)).abs().max() < 4


def test_colours(tmp_path: Path) -> None:
    grey, colour = pixels(0, 4, 4), pixels(1, 4, 4, 3)
    write(tmp_path / "0.png", grey)
    write(tmp_path / "1.png", colour)
    write(tmp_path / "2.png", np.dstack([colour, np.full((4, 4), 255, np.uint8)]))
    kept = rows(ImageFolder(folder=tmp_path).load())
    assert kept == {np.stack([grey] * 3).tobytes(), colour.transpose(2, 0, 1).tobytes()}
    turned = rows(ImageFolder(folder=tmp_path, color="to_grey").load())
    luma = np.asarray(Image.fromarray(colour).convert("L"))
    assert turned == {grey.tobytes(), luma.tobytes()}
    assert abs(luma - colour @ [0.299, 0.587, 0.114]).max() <= 1


def test_levels_and_binarisation(split: Path) -> None:
    few = ImageFolder(folder=split, color="grey", levels=4).load()
    assert few.space == Codes((1, 4, 4), 4)
    assert (pixels(0, 4, 4) // 64).tobytes() in rows(few)
    binary = ImageFolder(folder=split, color="grey", binarize=True).load()
    assert binary.space.size == 2 and binary.floor is not None and binary.floor_of == "the binarisation"  # type: ignore[union-attr]


def test_a_turned_photograph_is_seen_upright(tmp_path: Path) -> None:
    array = pixels(0, 4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(3):
        write(tmp_path / f"{i}.png", array, exif=exif)
    part = ImageFolder(folder=tmp_path, color="grey")
    assert part.spaces()[0] == Codes((1, 6, 4), 256)
    np.testing.assert_array_equal(part.load().test.x[0, 0].numpy(), np.rot90(array, -1))


def test_a_preview_beside_a_photograph_is_left_out(folder: Path) -> None:
    photograph, preview = (Image.fromarray(np.full((6, 5, 3), grey, np.uint8)) for grey in (200, 20))
    photograph.save(folder / "cats" / "30.jpg", format="MPO", save_all=True, append_images=[preview])
    found = rows(ImageFolder(folder=folder).load())
    assert len(found) == 21 and any(min(row) > 190 for row in found)


def test_how_an_image_is_turned_may_be_said_after_its_pixels(tmp_path: Path) -> None:
    """As exiftool writes it: Pillow meets it when it has decoded the pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(3):
        file = write(tmp_path / f"{i}.png", pixels(0, 4, 6), exif=exif)
        content = file.read_bytes()
        start, pixel, end = (content.index(kind) - 4 for kind in (b"eXIf", b"IDAT", b"IEND"))
        assert start < pixel
        file.write_bytes(content[:start] + content[pixel:end] + content[start:pixel] + content[end:])
    part = ImageFolder(folder=tmp_path, color="grey")
    assert part.spaces()[0] == Codes((1, 6, 4), 256)
    np.testing.assert_array_equal(part.load().test.x[0, 0].numpy(), np.rot90(pixels(0, 4, 6), -1))


def test_a_header_is_read_once_and_anew_where_the_file_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("pixels were decoded"))
        assert ImageFolder(folder=folder).spaces()[0] == Codes((3, 6, 5), 256)
        patched.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("a file was opened"))
        assert ImageFolder(folder=folder).spaces()[0] == Codes((3, 6, 5), 256)
    write(folder / "cats" / "01.png", pixels(0, 7, 5, 3))
    with pytest.raises(DataError, match="19 of 6x5, 1 of 7x5"):
        ImageFolder(folder=folder).spaces()


def test_only_headers_are_read_to_check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "read_pixels", lambda *_: pytest.fail("pixels were read"))
    assert ImageFolder(folder=folder).spaces()[0] == Codes((3, 6, 5), 256)
    monkeypatch.setattr(room, "read_header", lambda *_: pytest.fail("a header was read"))
    assert ImageFolder(folder=folder, size=4, levels=8).spaces()[0] == Codes((3, 4, 4), 8)


def test_what_is_no_image_is_left_alone(folder: Path) -> None:
    (folder / "README.txt").write_text("cats and dogs")
    (folder / "cats" / ".hidden.png").write_text("no image")
    write(folder / "cats" / ".ipynb_checkpoints" / "01-checkpoint.png", pixels(1, 6, 5, 3))
    assert sum(len(ImageFolder(folder=folder).load().split(name)) for name in ("train", "validation", "test")) == 20


def test_folders_may_be_links(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    plain = ImageFolder(folder=folder, labels=True).load()
    (folder / "dogs").rename(elsewhere / "dogs")
    (folder / "dogs").symlink_to(elsewhere / "dogs")
    linked = ImageFolder(folder=folder, labels=True).load()
    assert (linked.condition, linked.digest) == (plain.condition, plain.digest)


def test_a_name_that_is_no_text_is_a_name(folder: Path) -> None:
    """Latin-1 from an old archive: bytes that are no UTF-8."""
    (folder / "cats" / "01.png").rename(folder / "cats" / os.fsdecode(b"caf\xe9.png"))
    assert sum(len(ImageFolder(folder=folder).load().split(name)) for name in ("train", "validation", "test")) == 20


def _png() -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels(0, 6, 5, 3)).save(out, "png")
    return out.getvalue()


def _deep_png(kind: int, channels: int) -> bytes:
    """A PNG of 6x5 with 16 bits a channel, which Pillow does not write where there is more than one."""
    row = b"\0" + bytes(5 * 2 * channels)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 5, 6, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(6 * row)),
        (b"IEND", b""),
    ]
    written = (struct.pack(">I", len(it)) + key + it + struct.pack(">I", zlib.crc32(key + it)) for key, it in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def _deep_tiff(planar: int) -> bytes:
    """A TIFF of 6x5 in colour with 16 bits a channel, pixel by pixel (1) or channel by channel (2)."""
    shorts = {256: [5], 257: [6], 258: [16] * 3, 259: [1], 262: [2], 277: [3], 278: [6], 284: [planar]}
    strips = [60] * 3 if planar == 2 else [180]
    longs = {273: [1000 + 60 * i for i in range(len(strips))], 279: strips}
    out, beyond = struct.pack("<2sHIH", b"II", 42, 8, 10), b""
    for tag, values in sorted({**shorts, **longs}.items()):
        held = struct.pack(f"<{len(values)}{'H' if tag in shorts else 'I'}", *values)
        if len(held) > 4:
            held, beyond = struct.pack("<I", 500 + len(beyond)), beyond + held
        out += struct.pack("<HHI", tag, 3 if tag in shorts else 4, len(values)) + held.ljust(4, b"\0")
    return (out + bytes(4)).ljust(500, b"\0") + beyond.ljust(500, b"\0") + bytes(180)


PNG = _png()
#: How a good folder is spoilt, with which options that is a fault, and what the message has to say.
FAULTS: dict[str, tuple[Callable[[Path], object], dict[str, Any], list[str]]] = {
    "several sizes": (
        lambda folder: [write(folder / "cats" / f"{i}.png", pixels(i, 4 + i, 9, 3)) for i in (90, 91)],
        {},
        ["3 sizes (height x width): 20 of 6x5, 1 of 94x9, 1 of 95x9", "size: 5 would cut the middle square"],
    ),
    "many sizes": (
        lambda folder: [write(folder / "cats" / f"{i}.png", pixels(i, i, 9, 3)) for i in range(10, 17)],
        {},
        ["of 8 sizes", "15 of 6x5", "4 more sizes"],
    ),
    "colour where grey is wanted": (
        lambda folder: write(folder / "cats" / "grey.png", pixels(0, 6, 5)),
        {"color": "grey"},
        ["20 of 21 images are in colour, 01.png the first", "color: rgb keeps", "color: to_grey turns"],
    ),
    "colour where grey is wanted and resized": (lambda folder: None, {"color": "grey", "size": 4}, ["20 of 20 images"]),
    "half a file": (
        lambda folder: (folder / "cats" / "01.png").write_bytes(PNG[: len(PNG) // 2]),
        {},
        ["cats/01.png cannot be read as an image"],
    ),
    "half a header": (
        lambda folder: (folder / "cats" / "01.png").write_bytes(PNG[:20]),
        {},
        ["cats/01.png cannot be read"],
    ),
    "an empty file": (lambda folder: (folder / "cats" / "01.png").write_bytes(b""), {}, ["cats/01.png cannot be read"]),
    "another format": (
        lambda folder: (folder / "cats" / "01.png").write_bytes(b"%!PS-Adobe"),
        {},
        ["cats/01.png cannot be read"],
    ),
    "16 bits": (
        lambda folder: Image.fromarray(np.full((6, 5), 4000, np.uint16)).save(folder / "cats" / "01.png"),
        {},
        ["cats/01.png has pixels of more than 8 bits (I;16)", "256 levels"],
    ),
    **{
        f"16 bits in colour, {name}": (
            lambda folder, name=name, content=content: (folder / "cats" / name).write_bytes(content),
            {},
            [f"cats/{name} has pixels of more than 8 bits ({mode})", "256 levels"],
        )
        for name, mode, content in (
            ("00.png", "RGB", _deep_png(2, 3)),
            ("01.png", "RGBA", _deep_png(4, 2)),
            ("02.ppm", "RGB", b"P6 5 6 65535\n" + bytes(180)),
            ("03.tif", "RGB", _deep_tiff(1)),
            ("04.tif", "RGB", _deep_tiff(2)),
        )
    },
    "several in one": (
        lambda folder: Image.fromarray(pixels(0, 6, 5, 3)).save(
            folder / "cats" / "01.gif", save_all=True, append_images=[Image.fromarray(pixels(1, 6, 5, 3))]
        ),
        {},
        ["cats/01.gif holds 2 images; wanted one a file"],
    ),
    "transparent": (
        lambda folder: write(folder / "cats" / "01.png", pixels(0, 6, 5, 4)),
        {},
        ["cats/01.png is transparent in places"],
    ),
    "an image without a label": (
        lambda folder: write(folder / "loose.png", pixels(0, 6, 5, 3)),
        {"labels": True},
        ["loose.png", "lies in no folder that would be its label; wanted LABEL/loose.png"],
    ),
    "a label not trained on": (
        lambda folder: [write(folder / f"rare{i}" / "0.png", pixels(i, 6, 5, 3)) for i in range(20)],
        {"labels": True, "validation": 0.4},
        ["the validation split has the label rare", "which no image to train on has"],
    ),
    "an image in no split": (
        lambda folder: (folder / "test").mkdir(),
        {},
        ["cats/01.png lies in none of them; wanted every image in train, validation, test"],
    ),
    "a link in a circle": (
        lambda folder: (folder / "cats" / "again").symlink_to(folder),
        {},
        ["cats/again and ", " are one folder, by a link; remove it"],
    ),
    "a folder twice": (
        lambda folder: (folder / "latest").symlink_to(folder / "cats"),
        {},
        ["cats", "latest", " are one folder, by a link; remove it"],
    ),
    "links in a circle of two": (
        lambda folder: [(folder / a / "other").symlink_to(folder / b) for a, b in (("cats", "dogs"), ("dogs", "cats"))],
        {},
        ["other/other and ", " are one folder, by a link; remove it"],
    ),
    "nothing to train on": (
        lambda folder: [path.unlink() for path in sorted(folder.rglob("*.png"))[2:]],
        {},
        ["holds 2 images", "shares of 0.1 to validate and 0.1 to test leave none"],
    ),
    "no images": (
        lambda folder: [path.unlink() for path in folder.rglob("*.png")],
        {},
        ["holds no image; wanted files that end in .bmp"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_unfit_folders_are_named_with_what_was_wanted(folder: Path, fault: str) -> None:
    spoil, options, said = FAULTS[fault]
    spoil(folder)
    with pytest.raises(DataError) as error:
        ImageFolder.model_validate({"folder": str(folder), **options}).load()
    for words in [str(folder), *said]:
        assert words in str(error.value), str(error.value)


def test_a_recipe_that_does_not_suit_its_images_is_told_where(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "grey.yaml"
    file.write_text(
        f"data: {{type: images, folder: {folder}, color: grey}}\nmodel: {{stages: [latent]}}\ntrain: [{{steps: 1}}]\n"
    )
    (fault,) = check(file).faults
    assert fault.where == f"{file}:1:1" and fault.path == "data" and "color: to_grey" in fault.message
    assert check(file, ["data.color=to_grey"]).faults == []


@pytest.mark.parametrize("where", ["nowhere", "~no_such_user_here/x", "a\0b", "x" * 5000])
def test_a_missing_folder_is_named(where: str) -> None:
    with pytest.raises(DataError, match="no such folder"):
        ImageFolder.model_validate({"folder": where}).spaces()


def test_a_split_without_images_is_named(split: Path) -> None:
    for path in (split / "validation").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="has no image in validation; wanted some in train, validation, test"):
        ImageFolder(folder=split).spaces()


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"color": "gray"}, {"levels": 257}, {"levels": 4, "binarize": True}, {"test": 1.0}]
)
def test_options_that_do_not_hold_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        ImageFolder.model_validate({"folder": "x", **options})
    assert len(error.value.errors()) == 1


def test_registered_under_its_name() -> None:
    assert registry.load("data", "images") is ImageFolder
