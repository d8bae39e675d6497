"""The report of a dataset in a real browser, in light and dark, on a narrow and a wide screen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from clipfleet.error_codes import MISSING, NON_FINITE
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.plan.jobs import shards
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.plan.reader import PlanReader
from clipfleet.storage.sources.folder import FolderSource
from tests.browser import Browser
from tests.datasets import embedded, make_card
from tests.integration.support import run_command

LONG = "x" * 150
CONTRASTS = """
[...document.querySelectorAll('main *')].filter(e =>
  e.childNodes[0]?.nodeType === 3 && e.childNodes[0].nodeValue.trim()
).map(e => {
  const channels = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => channels(c).slice(0, 3).map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
  ).reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  let behind = e;
  while (behind.parentElement && channels(getComputedStyle(behind).backgroundColor)[3] === 0)
    behind = behind.parentElement;
  const style = getComputedStyle(e);
  const ink = light(e.namespaceURI.endsWith('svg') ? style.fill : style.color);
  const paper = light(getComputedStyle(behind).backgroundColor);
  return [e.tagName, (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05)];
}).filter(([tag, contrast]) => contrast < 4.5 && tag !== 'title' && tag !== 'desc')
"""  # as WCAG 2.2 defines it


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of pictures, of which some failed."""
    folder = tmp_path_factory.mktemp("report")
    photos = folder / "photos"
    photos.mkdir()
    for number in range(20):
        Image.new("RGB", (64, 48), "teal").save(photos / f"{number:02d}{LONG}.jpg")
    (photos / "a.mov").touch()
    dataset = Dataset.create(
        str(folder / "d"), make_card("img"), kind="planned", embedding_dtype="float16"
    )
    job = plan_items(dataset, FolderSource(str(photos)), 5)
    assert job is not None
    for shard, error in zip(shards(job), (NON_FINITE, MISSING, MISSING, MISSING), strict=True):
        items = PlanReader(dataset).read(shard)
        rows = embedded(items, failing={items[0].id, items[1].id}, seed=shard.index)
        failures = [replace(one, error=error, message=LONG * 2) for one in rows.failures]
        rows = replace(rows, failures=failures)
        commit(dataset, shard.name, rows, card=dataset.info.card, worker=f"img-1@{LONG}")
    ended = run_command("report", dataset.root)
    assert (ended.returncode, ended.stdout) == (0, f"{dataset.root}/report.html\n")
    return Path(dataset.root, "report.html")


def test_the_report_fits_can_be_read_and_has_names(page: Path, tmp_path: Path) -> None:
    browser = Browser(tmp_path)
    try:
        for width in (420, 1280):
            for scheme in ("light", "dark"):
                media = [{"name": "prefers-color-scheme", "value": scheme}]
                browser.call("Emulation.setEmulatedMedia", features=media)
                browser.open(page.as_uri(), width=width)
                assert browser.value("document.documentElement.scrollWidth") <= width
                assert browser.value(CONTRASTS) == [], (width, scheme)
        assert browser.value("[...document.images].every(image => image.naturalWidth > 0)")
        assert browser.value("document.images.length") == 8
        levels = "[...document.querySelectorAll('h1, h2, h3')].map(e => e.tagName).join(' ')"
        assert browser.value(levels) == "H1 H2 H2 H3 H3 H2 H2 H2 H2"
        tree = browser.call("Accessibility.getFullAXTree")["nodes"]
        named = [
            (node["role"]["value"], node["name"]["value"])
            for node in tree
            if not node["ignored"]
            and node["role"]["value"] in {"image", "link", "region", "table", "columnheader"}
        ]
        assert {role for role, _ in named} == {"image", "link", "region", "table", "columnheader"}
        assert all(name for _, name in named), named
        assert browser.problems == []
    finally:
        browser.close()
