"""Both towers of one source: its images and its texts, each in a dataset of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from clipfleet.architectures import TOWERS, Tower
from clipfleet.errors import SourceError, UsageError
from clipfleet.settings import Settings, load_settings

if TYPE_CHECKING:
    from clipfleet.tasks.local.run import Summary
    from clipfleet.tasks.submit.submit import Submission

Result = TypeVar("Result", "Summary", "Submission")

_OF_ONE: dict[Tower, set[str]] = {  # options that the other tower does not have
    "img": {"uri_column", "moved_from", "gate_sample"},
    "txt": {"text_column", "text_normalisation"},
}
_OF_PICTURES = ("decode", "sixteen_bit", "alpha", "truncated")  # settings


@dataclass(frozen=True, kw_only=True)
class BothTowers(Generic[Result]):
    """What `embed` or `submit` returned for the images and for the texts of a source."""

    img: Result
    txt: Result

    def to_json(self) -> dict[str, Any]:
        """Return both results in JSON's types."""
        return {"img": self.img.to_json(), "txt": self.txt.to_json()}

    def lines(self) -> list[str]:
        """Return both results as lines of text."""
        return [*self.img.lines(), *self.txt.lines()]


def both_towers(
    run: Callable[..., Result],
    source: str | Path,
    out: str | Path,
    *,
    model: str | Path,
    settings: Settings | None = None,
    **options: Any,
) -> BothTowers[Result]:
    """Embed or submit the images of a source into `out/img`, and its texts into `out/txt`.

        clipfleet.both_towers(clipfleet.embed, "products.parquet", "vectors", model="ViT-B-16")

    An id is the same in both datasets. A row without an image is a bad item of the images alone,
    and one without a text of the texts alone. The same call again goes on where it stopped.

    Args:
        run: `clipfleet.embed` or `clipfleet.submit`.
        source: A table with a column of paths or URLs and one of texts.
        out: The folder of both datasets, or `s3://bucket/prefix`.
        model: A model folder with both towers, or its name.
        settings: Without them, those of `load_settings()`; those of pictures are for the images.
        options: The other options of `run`, but `tower`. Each tower gets those that it has.

    Raises:
        UsageError: The model is no folder with both towers of one checkpoint, the source does not
            hold both images and texts, or `run` refuses a tower.
        BrokerError: As `run` raises it.
        EngineError: As `run` raises it.
    """
    from clipfleet.storage.filesystem.locations import below
    from clipfleet.storage.filesystem.open_filesystem import open_filesystem
    from clipfleet.storage.format.dataset_info import INFO_PATH
    from clipfleet.workers.engines.model_folder import check_both_towers
    from clipfleet.workers.engines.model_location import locate_model

    settings = settings or load_settings()
    folder = locate_model(model, settings)
    if not folder.is_dir():
        raise UsageError(f"both towers need a model folder, or its name, and {model} is none")
    check_both_towers(folder)
    if open_filesystem(str(out), store_timeout_s=settings.store_timeout_s).exists(INFO_PATH):
        raise UsageError(
            f"{out} is a dataset of one tower, and both towers need a folder for two datasets: "
            "name another one"
        )
    of_img = {name: value for name, value in options.items() if name not in _OF_ONE["txt"]}
    of_txt = {name: value for name, value in options.items() if name not in _OF_ONE["img"]}
    _check_source(source, {"img": of_img, "txt": of_txt})
    of_texts = {name: Settings.model_fields[name].default for name in _OF_PICTURES}
    for_texts = settings.model_copy(update=of_texts)
    return BothTowers(
        img=run(
            source, below(str(out), "img"), model=folder, tower="img", settings=settings, **of_img
        ),
        txt=run(
            source, below(str(out), "txt"), model=folder, tower="txt", settings=for_texts, **of_txt
        ),
    )


def _check_source(source: str | Path, options: dict[Tower, dict[str, Any]]) -> None:
    """Refuse a source that lacks one of the towers, before the other one is embedded.

    Raises:
        SourceError: It does.
    """
    from clipfleet.storage.sources.base import DerivedSource
    from clipfleet.storage.sources.open_source import open_source
    from clipfleet.storage.sources.options import of_sources
    from clipfleet.storage.tables.text_tables import LinesSource

    if not isinstance(source, str | Path):
        raise SourceError("both towers are of a file or a folder: embed items in memory by tower")
    for tower in TOWERS:
        opened = open_source(str(source), tower=tower, **of_sources(options[tower]))
        if isinstance(opened.source if isinstance(opened, DerivedSource) else opened, LinesSource):
            raise SourceError(
                f"{source} holds images or texts, one a line: both towers need a table with a "
                "column of each"
            )
        next(iter(opened), None)
