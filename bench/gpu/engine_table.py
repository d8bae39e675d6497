"""A table of TensorRT engines, from their cards.

python -m bench.gpu.engine_table models/*.trt.card.json
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from clipfleet.card import ModelCard, load_card

HEADER = (
    "| engine | precision | batch | built in, s | size, MB | cosine, least | cosine, mean "
    "| largest difference | cosine between items | items |\n|---|---|---|" + "---:|" * 7
)


def rows(cards: Sequence[Path]) -> Iterator[str]:
    """Yield the table's rows, one an engine."""
    for path in cards:
        card, engine = load_card(path)
        yield f"| {' | '.join(_cells(card, engine))} |"


def _cells(card: ModelCard, engine: Path) -> Iterator[str]:
    profile, parity = card.profile, card.parity
    yield f"{engine.name.split('.')[0]} {card.tower}"
    yield card.precision
    if profile is None or profile.smallest == profile.largest:
        yield str(profile.largest if profile else card.batch_size)
    else:
        yield f"{profile.smallest} to {profile.largest}"
    yield f"{card.build.seconds:.0f}" if card.build else "–"
    yield f"{engine.stat().st_size / 1e6:.1f}"
    if parity is None:
        yield from ["–"] * 5
        return
    yield f"{parity.cosine_min:.7f}"
    yield f"{parity.cosine_mean:.7f}"
    yield f"{parity.max_abs_diff:.2g}"
    between = parity.cosine_between_items
    yield "–" if between is None else f"{between:.3f}"
    yield str(parity.items)


def main(arguments: Sequence[str]) -> None:
    print(HEADER)
    for row in rows([Path(argument) for argument in arguments]):
        print(row)


if __name__ == "__main__":
    main(sys.argv[1:])
