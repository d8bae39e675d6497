"""Draw data in the form of MUGE, the guide's data set: `valid_imgs.tsv` and `valid_texts.jsonl`.

    python -m examples.demo.muge OUT --count 1000
    clipfleet muge OUT --model examples/demo/model

The pictures are near twins that the model has never seen: they differ in one property, so that
small errors of the vectors show in the recall.
"""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Sequence
from pathlib import Path

from examples.demo.scenes import Picture, close_pictures, jpeg

SEED = 1


def write(folder: Path, chosen: Sequence[Picture], *, split: str = "valid") -> None:
    """Write a split: a line `id TAB base64` for each picture, and two texts for it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / f"{split}_imgs.tsv").open("w", encoding="ascii") as pictures,
        (folder / f"{split}_texts.jsonl").open("w", encoding="utf-8") as texts,
    ):
        for id_, picture in enumerate(chosen, start=1):
            encoded = base64.urlsafe_b64encode(jpeg(picture)).decode()
            pictures.write(f"{id_}\t{encoded}\n")
            for text_id, text in enumerate((picture.chinese, picture.english), start=2 * id_):
                line = {"text_id": text_id, "text": text, "image_ids": [id_]}
                texts.write(json.dumps(line, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--count", type=int, default=1000, help="pictures (default: %(default)s)")
    arguments = parser.parse_args()
    write(arguments.out, close_pictures(count=arguments.count, seed=SEED, split="held-out"))
    print(f"{arguments.count} pictures and {2 * arguments.count} texts in {arguments.out}")


if __name__ == "__main__":
    main()
