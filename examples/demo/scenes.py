"""Pictures of coloured shapes, each with a Chinese and an English caption that say all of it.

    python examples/demo/scenes.py OUT --count 2000 --seed 1

writes OUT/images/*.jpg and OUT/captions.jsonl. A scene is one or two groups of equal
shapes on a background; it belongs to exactly one split, whatever the seed, so that a model
trained on the one split has met no scene of the other. Shades, sizes, rotations, places,
lighting, noise and the JPEG quality vary from picture to picture and are in no caption.
"""

from __future__ import annotations

import argparse
import colorsys
import io
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw

SPLITS = ("held-out", "train")
HELD_OUT_SHARE = 10  # one scene in so many is held out
LONE_GROUP_SHARE = 16  # one scene in so many has one group instead of two
SUPERSAMPLING = 2  # shapes are drawn larger and then reduced: smooth edges

COUNTS = (("一", "one"), ("两", "two"), ("三", "three"), ("四", "four"))
SIZES = (("大", "large"), ("小", "small"))
PLACES = (  # row by row, three in a row
    ("左上角", "at the top left"),
    ("上方", "at the top"),
    ("右上角", "at the top right"),
    ("左侧", "on the left"),
    ("中央", "in the centre"),
    ("右侧", "on the right"),
    ("左下角", "at the bottom left"),
    ("下方", "at the bottom"),
    ("右下角", "at the bottom right"),
)
# Chinese, English, hue in degrees, saturation and value: each from, to.
COLOURS = (
    ("红色", "red", (-8, 8), (0.80, 1.00), (0.70, 1.00)),
    ("橙色", "orange", (22, 34), (0.85, 1.00), (0.90, 1.00)),
    ("黄色", "yellow", (50, 60), (0.80, 1.00), (0.90, 1.00)),
    ("绿色", "green", (100, 145), (0.60, 1.00), (0.40, 0.75)),
    ("青色", "cyan", (172, 190), (0.70, 1.00), (0.70, 0.95)),
    ("蓝色", "blue", (212, 240), (0.75, 1.00), (0.60, 1.00)),
    ("紫色", "purple", (270, 290), (0.60, 0.90), (0.45, 0.80)),
    ("粉色", "pink", (325, 345), (0.35, 0.55), (0.90, 1.00)),
    ("棕色", "brown", (20, 30), (0.60, 0.80), (0.35, 0.50)),
)
BACKGROUNDS = (
    ("白色", "white", (0, 360), (0.00, 0.04), (0.93, 1.00)),
    ("黑色", "black", (0, 360), (0.00, 0.20), (0.03, 0.12)),
    ("灰色", "grey", (0, 360), (0.00, 0.05), (0.45, 0.60)),
    ("米色", "beige", (36, 44), (0.18, 0.28), (0.85, 0.93)),
    ("浅蓝色", "light blue", (200, 212), (0.18, 0.28), (0.90, 0.98)),
    ("浅绿色", "light green", (100, 125), (0.18, 0.28), (0.88, 0.96)),
)
Shade = tuple[str, str, tuple[int, int], tuple[float, float], tuple[float, float]]
Polygon = tuple[tuple[float, float], ...]


def _around(*radii: float, points: int, turn: float = -90.0) -> Polygon:
    """Return points on circles of these radii in turn, clockwise from `turn` degrees."""
    angles = [math.radians(turn + 360.0 * i / points) for i in range(points)]
    return tuple(
        (radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a))
        for i, a in enumerate(angles)
    )


def _heart(*, points: int = 28) -> Polygon:
    """Return the outline x = 16 sin³t, y = 13 cos t − 5 cos 2t − 2 cos 3t − cos 4t, scaled."""
    angles = [2.0 * math.pi * i / points for i in range(points)]
    return tuple(
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in angles
    )


_THIN = 0.34
# Chinese, English, outline in a box from −1 to 1; a circle where there is none.
SHAPES: tuple[tuple[str, str, Polygon], ...] = (
    ("圆形", "circle", ()),
    ("圆环", "ring", ()),
    ("正方形", "square", _around(1.2, points=4, turn=45.0)),
    ("三角形", "triangle", _around(1.1, points=3)),
    ("菱形", "diamond", ((0.0, -1.1), (0.7, 0.0), (0.0, 1.1), (-0.7, 0.0))),
    ("五角星", "star", _around(1.15, 0.48, points=10)),
    ("心形", "heart", _heart()),
    (
        "十字形",
        "cross",
        tuple(
            (x * s, y * s)
            for s in (1.0, -1.0)
            for x, y in (
                (1, -_THIN),
                (1, _THIN),
                (_THIN, _THIN),
                (_THIN, 1),
                (-_THIN, 1),
                (-_THIN, _THIN),
            )
        ),
    ),
)


@dataclass(frozen=True, kw_only=True, order=True)
class Group:
    """Equal shapes in one place; each number is an index into the table of its name."""

    place: int
    count: int
    size: int
    colour: int
    shape: int


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a picture shows: a background and its groups, ordered by place."""

    background: int
    groups: tuple[Group, ...]

    @property
    def split(self) -> str:
        """The one split that this scene belongs to."""
        return SPLITS[zlib.crc32(repr(self).encode()) % HELD_OUT_SHARE > 0]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A scene with its file name's stem, its captions and the seed of its chance."""

    id: str
    scene: Scene
    chinese: str
    english: str
    seed: str


def pictures(*, count: int, seed: int, split: str = "held-out") -> list[Picture]:
    """Return `count` pictures of pairwise different scenes of one split.

    The same seed and split give the same pictures; a larger count only adds to them.
    """
    return _pictures(_scenes(Random(f"{split}/{seed}"), split), count, f"{split}/{seed}")


def close_pictures(*, count: int, seed: int, split: str = "held-out") -> list[Picture]:
    """Return `count` pictures in families of near twins, all of different scenes of one split.

    The scenes of a family differ from its first in one property of one group: a harder test
    of a model than pictures drawn by chance, which differ in most properties.
    """
    firsts = _scenes(Random(f"close/{split}/{seed}"), split)
    family = (scene for first in firsts for scene in (first, *_twins(first)))
    scenes = _unseen(scene for scene in family if scene.split == split)
    return _pictures(scenes, count, f"close/{split}/{seed}")


def _pictures(scenes: Iterator[Scene], count: int, seed: str) -> list[Picture]:
    return [
        _picture(scene, seed=f"{seed}/{index}", id=f"{index:06d}")
        for index, scene in enumerate(islice(scenes, count))
    ]


def _scenes(random: Random, split: str) -> Iterator[Scene]:
    drawn = (_draw(random) for _ in repeat(None))
    return _unseen(scene for scene in drawn if scene.split == split)


def _unseen(scenes: Iterable[Scene]) -> Iterator[Scene]:
    seen: set[Scene] = set()
    for scene in scenes:
        if scene not in seen:
            seen.add(scene)
            yield scene


def _twins(scene: Scene) -> Iterator[Scene]:
    """Yield the scenes that differ in one property, other than the place, of one group."""
    tables = {"count": COUNTS, "size": SIZES, "colour": COLOURS, "shape": SHAPES}
    for position, group in enumerate(scene.groups):
        for name, table in tables.items():
            for value in range(len(table)):
                groups = list(scene.groups)
                groups[position] = replace(group, **{name: value})
                yield replace(scene, groups=tuple(groups))


def _draw(random: Random) -> Scene:
    groups = 1 if random.randrange(LONE_GROUP_SHARE) == 0 else 2
    return Scene(
        background=random.randrange(len(BACKGROUNDS)),
        groups=tuple(
            Group(
                place=place,
                count=random.randrange(len(COUNTS)),
                size=random.randrange(len(SIZES)),
                colour=random.randrange(len(COLOURS)),
                shape=random.randrange(len(SHAPES)),
            )
            for place in sorted(random.sample(range(len(PLACES)), groups))
        ),
    )


def _picture(scene: Scene, *, seed: str, id: str) -> Picture:  # noqa: A002
    random = Random(f"{seed}/captions")
    return Picture(
        id=id,
        scene=scene,
        chinese=_chinese(scene, random),
        english=_english(scene, random),
        seed=seed,
    )


def _shuffled(scene: Scene, random: Random) -> list[Group]:
    return random.sample(scene.groups, len(scene.groups))


def _chinese(scene: Scene, random: Random) -> str:
    background = BACKGROUNDS[scene.background][0]
    parts = [
        (
            PLACES[g.place][0],
            f"{COUNTS[g.count][0]}个{SIZES[g.size][0]}的{COLOURS[g.colour][0]}{SHAPES[g.shape][0]}",
        )
        for g in _shuffled(scene, random)
    ]
    if random.random() < 0.5:
        return (
            f"{background}背景上，" + "，".join(f"{place}有{what}" for place, what in parts) + "。"
        )
    return "，".join(f"{what}在{place}" for place, what in parts) + f"，背景是{background}。"


def _english(scene: Scene, random: Random) -> str:
    background = BACKGROUNDS[scene.background][1]
    parts = [
        f"{COUNTS[g.count][1]} {SIZES[g.size][1]} {COLOURS[g.colour][1]} "
        f"{_plural(SHAPES[g.shape][1], g.count + 1)} {PLACES[g.place][1]}"
        for g in _shuffled(scene, random)
    ]
    if random.random() < 0.5:
        return f"On a {background} background: " + " and ".join(parts) + "."
    return ", ".join(parts).capitalize() + f", on a {background} background."


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else noun + ("es" if noun.endswith("s") else "s")


def render(picture: Picture) -> Image.Image:
    """Return the picture, RGB, 120 to 160 pixels a side; what no caption says is chance."""
    random = Random(f"{picture.seed}/pixels")
    width, height = random.randint(120, 160), random.randint(120, 160)
    background = _shade(BACKGROUNDS[picture.scene.background], random)
    canvas = Image.new("RGB", (width * SUPERSAMPLING, height * SUPERSAMPLING), background)
    draw = ImageDraw.Draw(canvas)
    for group in picture.scene.groups:
        _draw_group(draw, group, background, random)
    return _under_light_and_noise(canvas.reduce(SUPERSAMPLING), random)


def _shade(shade: Shade, random: Random) -> tuple[int, int, int]:
    hue, saturation, value = (random.uniform(*limits) for limits in shade[2:])
    red, green, blue = colorsys.hsv_to_rgb(hue / 360.0 % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_group(
    draw: ImageDraw.ImageDraw, group: Group, background: tuple[int, int, int], random: Random
) -> None:
    cell_width, cell_height = draw.im.size[0] / 3, draw.im.size[1] / 3
    unit = min(cell_width, cell_height)
    left, top = group.place % 3 * cell_width, group.place // 3 * cell_height
    alone = group.count == 0
    spots = [(0.5, 0.5)] if alone else [(x, y) for y in (0.26, 0.74) for x in (0.26, 0.74)]
    base = (0.42, 0.21)[group.size] if alone else (0.22, 0.12)[group.size]
    jitter = (0.06, 0.2)[group.size] if alone else (0.02, 0.06)[group.size]
    for x, y in random.sample(spots, group.count + 1):
        centre = (
            left + cell_width * (x + random.uniform(-jitter, jitter)),
            top + cell_height * (y + random.uniform(-jitter, jitter)),
        )
        radius = unit * base * random.uniform(0.9, 1.05)
        colour = _shade(COLOURS[group.colour], random)
        _draw_shape(draw, SHAPES[group.shape], centre, radius, colour, background, random)


def _draw_shape(
    draw: ImageDraw.ImageDraw,
    shape: tuple[str, str, Polygon],
    centre: tuple[float, float],
    radius: float,
    colour: tuple[int, int, int],
    background: tuple[int, int, int],
    random: Random,
) -> None:
    _, name, outline = shape
    if not outline:
        draw.circle(centre, radius, fill=colour)
        if name == "ring":
            draw.circle(centre, radius * 0.52, fill=background)
        return
    turn = math.radians(random.uniform(-12.0, 12.0))
    cos, sin = radius * math.cos(turn), radius * math.sin(turn)
    points = [(centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos) for x, y in outline]
    draw.polygon(points, fill=colour)


def _under_light_and_noise(image: Image.Image, random: Random) -> Image.Image:
    """Return the image with a gradient of light across it and noise on every pixel."""
    samples = np.asarray(image).reshape(image.height, image.width * 3)  # 2-D: several times faster
    across = np.linspace(-1, 1, samples.shape[1], dtype=np.float32) * random.uniform(-0.06, 0.06)
    down = np.linspace(-1, 1, samples.shape[0], dtype=np.float32) * random.uniform(-0.06, 0.06)
    lit = samples * (1 + across + down[:, None])
    noise = np.frombuffer(np.random.default_rng(random.getrandbits(64)).bytes(lit.size), np.int8)
    lit += noise.reshape(lit.shape) * np.float32(random.uniform(2, 14) / 128)  # 2 to 14 of 255
    np.clip(lit, 0, 255, out=lit)
    return Image.fromarray(lit.astype(np.uint8).reshape(image.height, image.width, 3))


def jpeg(picture: Picture) -> bytes:
    """Return the picture as a JPEG file's bytes."""
    buffer = io.BytesIO()
    quality = Random(f"{picture.seed}/jpeg").randint(80, 95)
    render(picture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def captions(picture: Picture) -> list[dict[str, str]]:
    """Return the lines of the captions' file: an id, the text and the picture's file."""
    image = f"images/{picture.id}.jpg"
    return [
        {"id": f"{picture.id}.zh", "text": picture.chinese, "image": image},
        {"id": f"{picture.id}.en", "text": picture.english, "image": image},
    ]


def _write_jpeg(picture: Picture, folder: Path) -> None:
    (folder / f"{picture.id}.jpg").write_bytes(jpeg(picture))


def write(folder: Path, chosen: list[Picture], *, processes: int) -> None:
    """Write the pictures to `folder`/images and their captions to `folder`/captions.jsonl."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(processes) as pool:
        for _ in pool.map(partial(_write_jpeg, folder=images), chosen, chunksize=64):
            pass
    lines = (json.dumps(line, ensure_ascii=False) for p in chosen for line in captions(p))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--count", type=int, default=2000, help="pictures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--split", choices=SPLITS, default="held-out", help="default: %(default)s")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    chosen = pictures(count=arguments.count, seed=arguments.seed, split=arguments.split)
    write(arguments.out, chosen, processes=arguments.processes)
    print(f"{len(chosen)} pictures and {2 * len(chosen)} captions in {arguments.out}")


if __name__ == "__main__":
    main()
