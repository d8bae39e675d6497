"""Write the features of the guide's images and texts, from ONNX engines.

    python -m clipfleet.convert.extract_features_onnx \
        --extract-image-feats --extract-text-feats \
        --image-data lmdb/valid/imgs --text-data valid_texts.jsonl \
        --onnx-image-model models/vit-b-16.img.fp16.onnx \
        --onnx-text-model models/vit-b-16.txt.fp16.onnx
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from clipfleet.convert.extract_features import make_parser, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the guide's command; return its exit code."""
    parser = make_parser("onnx")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: a GPU if there is one")
    return run(arguments, "onnx", parser)


if __name__ == "__main__":
    sys.exit(main())
