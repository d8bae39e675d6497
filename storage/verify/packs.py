"""The check of packs: what their footers say to plain readers follows from the parts in them."""

from __future__ import annotations

from clipfleet.storage.format.dataset import PARTS_FOLDER, Dataset
from clipfleet.storage.packs.pack import has_own_footer, is_pack_name
from clipfleet.storage.packs.packed_parts import PackedParts
from clipfleet.storage.verify import verification as kinds
from clipfleet.storage.verify.verification import Findings


def check_packs(dataset: Dataset, findings: Findings) -> None:
    """Find packs with a foreign footer, and parts that lie in a pack and elsewhere too.

    The parts themselves are checked like all others. A pack whose own footer cannot be read is
    listed, and so checked, as if it were a part.
    """
    fs = dataset.fs
    if not isinstance(fs, PackedParts):
        return
    files = fs.inner.list(PARTS_FOLDER)
    seen = {name.removesuffix(".parquet") for name in files if not is_pack_name(name)}
    for pack in fs.packs():
        for member in pack.members or ():
            if member.name in seen:
                findings.add(kinds.PACKED_TWICE, f"{member.name} (in {pack.file_name})")
            seen.add(member.name)
        if pack.members is not None:
            with fs.inner.open(f"{PARTS_FOLDER}/{pack.file_name}") as file:
                if not has_own_footer(file, pack.members):
                    findings.add(kinds.PACK, pack.file_name)
