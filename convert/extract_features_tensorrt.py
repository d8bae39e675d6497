"""Write the features of the guide's images and texts, from TensorRT engines.

    python -m clipfleet.convert.extract_features_tensorrt \
        --extract-image-feats --extract-text-feats \
        --image-data lmdb/valid/imgs --text-data valid_texts.jsonl \
        --tensorrt-image-model models/vit-b-16.img.fp16.trt \
        --tensorrt-text-model models/vit-b-16.txt.fp16.trt
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from clipfleet.convert.extract_features import make_parser, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the guide's command; return its exit code."""
    parser = make_parser("tensorrt")
    return run(arguments, "tensorrt", parser)


if __name__ == "__main__":
    sys.exit(main())
