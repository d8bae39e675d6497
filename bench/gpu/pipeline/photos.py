"""Make JPEGs with the content of photographs, of one size, from a few given pictures.

    python -m bench.gpu.pipeline.photos OUT --count 40000 --size 500x375 --pictures FOLDER

Each photo is a random cut of a picture, sometimes mirrored, with other colours. Photo n is the same
in every run. A photo wider than 800 pixels is a mosaic of 16 cuts, so its detail is not blurred.
Without a folder, the pictures are those that scikit-learn and scikit-image have in their packages.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib import import_module
from itertools import product, repeat
from pathlib import Path

from PIL import Image, ImageEnhance

from clipfleet.settings import cores

Size = tuple[int, int]  # width, height

_QUALITY = 90
_WIDEST_CUT = 800  # pixels
_TILES = 4  # of a mosaic, in each direction
_IN_FOLDER = 1000
_IN_JOB = 250
_SAMPLES = ("astronaut", "coffee", "cat", "rocket")  # of scikit-image


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=40_000)
    parser.add_argument("--size", type=size_of, default=(500, 375), help="WIDTHxHEIGHT")
    parser.add_argument("--pictures", type=Path, help="folder of JPEG or PNG files")
    args = parser.parse_args(arguments)
    size_bytes = make_photos(args.out, args.count, args.size, args.pictures)
    print(f"{args.count:,} photos of {size_bytes / args.count / 1000:.0f} kB in {args.out}")


def size_of(text: str) -> Size:
    """Return the (width, height) of a text such as 500x375."""
    width, height = (int(side) for side in text.split("x"))
    return width, height


def make_photos(out: Path, count: int, size: Size, pictures: Path | None = None) -> int:
    """Write `count` photos below a new folder, and return their size in bytes.

    Raises:
        SystemExit: There are no pictures.
    """
    given(pictures)
    starts = range(0, count, _IN_JOB)
    stops = [min(start + _IN_JOB, count) for start in starts]
    with ProcessPoolExecutor(cores()) as pool:
        return sum(
            pool.map(
                _write, repeat(out), starts, stops, repeat(size), repeat(pictures), chunksize=1
            )
        )


def _write(out: Path, start: int, stop: int, size: Size, pictures: Path | None) -> int:
    size_bytes = 0
    for number in range(start, stop):
        path = out / f"{number // _IN_FOLDER:04d}" / f"{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(number, size, given(pictures)).save(path, quality=_QUALITY)
        size_bytes += path.stat().st_size
    return size_bytes


def photo(number: int, size: Size, pictures: Sequence[Image.Image]) -> Image.Image:
    """Return photo `number` of a size."""
    chance = random.Random(number)
    width, height = size
    if width <= _WIDEST_CUT:
        return _cut(chance, size, pictures)
    mosaic = Image.new("RGB", size)
    tile = (-(-width // _TILES), -(-height // _TILES))
    for x, y in product(range(_TILES), repeat=2):
        mosaic.paste(_cut(chance, tile, pictures), (x * tile[0], y * tile[1]))
    return mosaic


def _cut(chance: random.Random, size: Size, pictures: Sequence[Image.Image]) -> Image.Image:
    """Return 60 to 100 % of a picture's largest window of this shape, as an image of this size."""
    picture = chance.choice(pictures)
    share = chance.uniform(0.6, 1.0) * min(picture.width / size[0], picture.height / size[1])
    width, height = max(1, int(size[0] * share)), max(1, int(size[1] * share))
    x, y = chance.randint(0, picture.width - width), chance.randint(0, picture.height - height)
    box = (x, y, x + width, y + height)
    image = picture.resize(size, Image.Resampling.BICUBIC, box=box)
    if chance.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return ImageEnhance.Color(image).enhance(chance.uniform(0.7, 1.3))


@cache
def given(folder: Path | None) -> list[Image.Image]:
    """Return the pictures of a folder, or the samples of other packages.

    Raises:
        SystemExit: There are none.
    """
    found = list(_samples()) if folder is None else [*map(_opened, _files(folder))]
    if not found:
        raise SystemExit(
            f"no JPEG or PNG file in {folder}"
            if folder
            else "no pictures: name a folder with --pictures, or install scikit-learn"
        )
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in {".jpg", ".jpeg", ".png"})


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        picture: Image.Image = image.convert("RGB")
        return picture


def _samples() -> Iterator[Image.Image]:
    try:
        yield from map(
            Image.fromarray, import_module("sklearn.datasets").load_sample_images().images
        )
        data = import_module("skimage.data")
        yield from (Image.fromarray(getattr(data, name)()).convert("RGB") for name in _SAMPLES)
    except ImportError:
        return


if __name__ == "__main__":
    main()
