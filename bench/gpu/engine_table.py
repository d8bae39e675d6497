"""A table of TensorRT engines, from their cards.

python -m bench.gpu.engine_table models/*.trt.card.json
python -m bench.gpu.engine_table models/*.trt.card.json --into docs/explanation/performance.md

An engine whose card is from before sizes were noted has none.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.pages import Section
from clipfleet.model_card import ModelCard, parse_card

SECTION = Section("engines", "bench.gpu.engine_table")

HEADER = (
    "| engine | precision | batch | built in, s | size, MB | cosine, least | cosine, mean "
    "| largest difference | cosine between items | items |\n|---|---|---|" + "---:|" * 7
)


def rows(cards: Sequence[Path]) -> Iterator[str]:
    """Yield the table's rows, one an engine."""
    for path in cards:
        card = parse_card(path.read_text(encoding="utf-8"), origin=str(path))
        yield f"| {' | '.join(_cells(card, path.parent / card.engine))} |"


def _cells(card: ModelCard, engine: Path) -> Iterator[str]:
    profile, parity = card.profile, card.parity
    yield f"{engine.name.split('.')[0]} {card.tower}"
    yield card.precision
    if profile is None or profile.smallest == profile.largest:
        yield str(profile.largest if profile else card.batch_size)
    else:
        yield f"{profile.smallest} to {profile.largest}"
    yield f"{card.build.seconds:.0f}" if card.build else "–"
    size_bytes = card.build.size_bytes if card.build else None
    yield f"{size_bytes / 1e6:.1f}" if size_bytes else "–"
    if parity is None:
        yield from ["–"] * 5
        return
    yield f"{parity.cosine_min:.7f}"
    yield f"{parity.cosine_mean:.7f}"
    yield f"{parity.max_abs_diff:.2g}"
    between = parity.cosine_between_items
    yield "–" if between is None else f"{between:.3f}"
    yield str(parity.items)


def table(cards: Sequence[Path]) -> str:
    """Return the table of these cards, in their order."""
    return "\n".join([HEADER, *rows(cards)])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cards", nargs="*", type=Path, help="cards of TensorRT engines")
    parser.add_argument("--into", type=Path, help=f"write it into a page: {SECTION.begin}")
    args = parser.parse_args(arguments)
    text = table(args.cards)
    if args.into is None:
        print(text)
    else:
        SECTION.write(args.into, text)


if __name__ == "__main__":
    main()
