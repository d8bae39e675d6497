"""The images and the texts of one table, embedded by the command of docs/how-to/embed.md."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import clipfleet
from clipfleet.architectures import TOWERS
from clipfleet.workers.engines.fake import write_fake_engine
from tests.integration.support import forget_settings, run_command

pytestmark = pytest.mark.integration

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "embed.md"


def test_both_towers_have_the_ids_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)
    models = tmp_path / "models/vit-b-16"
    models.mkdir(parents=True)
    for tower in TOWERS:
        write_fake_engine(models, tower)
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "products.csv").write_text("id,uri,text\n1,a.png,a cat\n2,,a dog\n3,a.png,\n")
    [command] = re.findall("^clipfleet (embed .* --tower both)$", GUIDE.read_text(), re.MULTILINE)

    done = run_command(*shlex.split(command))
    assert done.returncode == 1, done.stderr
    found = {}
    for tower in TOWERS:
        dataset = clipfleet.Dataset(f"vectors/products/{tower}")
        found[tower] = list(dataset.ids), {row.id: row.error for row in dataset.errors()}
    assert found == {
        "img": (["1", "3"], {"2": "bad_item"}),
        "txt": (["1", "2"], {"3": "empty_text"}),
    }
    assert "vectors/products/txt: embedded 3 items" in done.stdout
