"""A stand-in for nvidia-smi, for tests on machines without a GPU."""

from __future__ import annotations

from pathlib import Path

_FIELDS = "uuid,name,compute_cap,memory.total,memory.free,driver_version"
_LINE = "GPU-{number:04d}, NVIDIA H100 80GB HBM3, 9.0, 81559 MiB, 81008 MiB, 580.105.08"
# It refuses every other query, so that a test notices one.
_SCRIPT = """#!/bin/sh
case "$*" in
  "--query-gpu={fields} --format=csv,noheader") ;;
  *) echo "unknown arguments: $*" >&2; exit 2 ;;
esac
cat <<'END'
{lines}
END
"""


def write_nvidia_smi(folder: Path, gpus: int) -> Path:
    """Write the program into a folder, for PATH, and return the folder."""
    lines = "\n".join(_LINE.format(number=number) for number in range(gpus))
    program = folder / "nvidia-smi"
    program.write_text(_SCRIPT.format(lines=lines, fields=_FIELDS))
    program.chmod(0o755)
    return folder
