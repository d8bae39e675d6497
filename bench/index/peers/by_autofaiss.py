"""Build an index with autofaiss, in an environment of its own: this file imports nothing of ours.

ENVIRONMENT/bin/python bench/index/peers/by_autofaiss.py PARTS FILE MEMORY
"""

from __future__ import annotations

import sys

from autofaiss import build_index


def main() -> None:
    parts, out, memory = sys.argv[1:]
    built = build_index(
        embeddings=parts,
        file_format="parquet",
        embedding_column_name="embedding",
        index_path=out,
        index_infos_path=f"{out}.json",
        max_index_memory_usage=memory,
        current_memory_available="16GB",
        metric_type="ip",
    )
    if built is None or built[0] is None:
        raise SystemExit("autofaiss built nothing")


if __name__ == "__main__":
    main()
