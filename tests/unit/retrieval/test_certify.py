"""A certificate of an index whose recall is known, and the messages where there is none."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import clipfleet
from clipfleet.errors import RecallError, UsageError
from clipfleet.retrieval.certificate.at_hand import queries_at_hand
from clipfleet.retrieval.certificate.certificate import (
    Build,
    Certificate,
    Target,
    parse_certificate,
)
from clipfleet.retrieval.certificate.certify import certify
from clipfleet.retrieval.certificate.recall import provable
from clipfleet.retrieval.certificate.recheck import recheck
from clipfleet.retrieval.certificate.report import report
from clipfleet.retrieval.index.card import IndexCard
from clipfleet.retrieval.index.parameters import Structure
from clipfleet.retrieval.neighbours import Neighbours
from clipfleet.settings import load_settings
from clipfleet.storage.commit.single_items import KnownIds, commit_single_items
from clipfleet.storage.format.dataset import Dataset
from tests.datasets import DIM, embedded, make_card, numbered_texts
from tests.unit.retrieval.list_index import ListIndex

LISTS = Structure(kind="ivf-rabitq", lists=8, bits=2)
EXACT = Structure(kind="exact")
NINETY = Target(min_recall=0.9)
BUILD = Build(seconds=2.0, memory_bytes=17_400, disk_bytes=120_000)


def random_vectors(count: int) -> NDArray[np.float16]:
    vectors = np.random.default_rng(1).standard_normal((count, DIM))
    half: NDArray[np.float16] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(
        np.float16
    )
    return half


def text_dataset(folder: Path, count: int) -> clipfleet.Dataset:
    dataset = Dataset.create(
        str(folder), make_card("txt"), kind="stream", embedding_dtype="float16"
    )
    rows = embedded(numbered_texts(count))
    with closing(KnownIds(dataset)) as known:
        commit_single_items(dataset, known, rows, card=dataset.info.card, worker="w")
    return clipfleet.Dataset(folder)


def certified(
    index: ListIndex,
    structure: Structure = LISTS,
    *,
    target: Target = NINETY,
    queries: clipfleet.Dataset | None = None,
) -> Certificate:
    return certify(
        index, tower="img", structure=structure, target=target, build=BUILD, queries=queries
    )


def test_parameters_are_chosen_for_the_hardest_kind_in_one_pass(tmp_path: Path) -> None:
    index = ListIndex(random_vectors(240), lists=8)

    made = certified(index, queries=text_dataset(tmp_path, 100))

    assert index.passes == 1
    assert made.parameters.probes == 8  # 7 of 8 lists find 7 of 8 rows
    assert [(recall.kind, recall.queries) for recall in made.recalls] == [
        ("held-out", 240),
        ("txt", 100),
    ]
    assert made.hardest.deciding.low == provable(
        100
    )  # all was found; the texts are fewer, and prove less
    assert (made.itself.rows, made.itself.found) == (240, 240)
    assert made.not_certified is None
    assert (made.latency.queries, made.rows) == (340, 240)
    assert parse_certificate(json.loads(json.dumps(made.to_json())), origin="") == made


def test_without_texts_their_recall_is_not_certified() -> None:
    made = certified(ListIndex(random_vectors(50)), EXACT)

    assert made.not_certified == "txt"
    assert (made.parameters.probes, len(made.steps)) == (0, 1)


@pytest.mark.parametrize(
    ("rows", "target", "way_out"),
    [
        (
            20,
            Target(min_recall=0.9),
            "20 held-out queries cannot prove .* --kind exact ",
        ),
        (300, Target(min_recall=0.999), "set --min-recall 0.99$"),
        (300, Target(min_recall=0.9, max_latency_ms=1e-9), "What would do: --max-latency-ms"),
    ],
)
def test_a_target_that_is_not_reached_is_an_error_with_a_way_out(
    rows: int, target: Target, way_out: str
) -> None:
    with pytest.raises(RecallError, match=way_out):
        certified(ListIndex(random_vectors(rows), lists=8), target=target)


def test_queries_at_hand_are_the_largest_that_can_prove_the_target(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text_dataset(tmp_path / "few", 20)
    text_dataset(tmp_path / "more", 30)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "dataset.json").write_text("{}")
    photos, model, settings = str(tmp_path / "photos"), make_card("img"), load_settings()

    found = queries_at_hand(photos, model, NINETY, settings=settings)

    assert found is not None
    assert found.path == str(tmp_path / "more")
    assert f"{tmp_path}/damaged/dataset.json is damaged" in caplog.text
    assert queries_at_hand(photos, model, Target(min_recall=0.95), settings=settings) is None
    other = make_card("img", checkpoint="d")
    assert queries_at_hand(photos, other, NINETY, settings=settings) is None
    assert queries_at_hand("s3://bucket/photos", model, NINETY, settings=settings) is None


def test_too_few_texts_ask_for_more(tmp_path: Path) -> None:
    index = ListIndex(random_vectors(240), lists=8)

    with pytest.raises(RecallError, match=r"10 txt queries .* of 1,000 vectors or more with --qu"):
        certified(index, queries=text_dataset(tmp_path, 10))


def test_lists_that_are_never_read_are_told_with_what_would_reach_more() -> None:
    half_lost = ListIndex(random_vectors(300), lists=16)  # of which a search reads at most 8

    with pytest.raises(RecallError, match=r"--bits 4, or --kind exact, in a new folder"):
        certified(half_lost)


def test_an_exact_index_that_misses_a_row_is_refused() -> None:
    class OneMissing(ListIndex):
        def search(self, queries: NDArray[np.float32], k: int, **_: Any) -> Neighbours:
            found = super().search(queries, k)
            return Neighbours(rows=np.where(found.rows == 7, -1, found.rows), scores=found.scores)

    with pytest.raises(RecallError, match=r"an exact index found only 0\.99"):
        certified(OneMissing(random_vectors(300)), EXACT)


def test_an_index_without_rows_is_refused() -> None:
    with pytest.raises(UsageError, match="no vectors"):
        certified(ListIndex(random_vectors(1), dead=(0,)), EXACT)


def test_a_certificate_contradicts_an_index_that_changed() -> None:
    index = ListIndex(random_vectors(300), lists=8)
    made = certified(index)

    assert recheck(index, made) == []
    (wrong,) = recheck(ListIndex(random_vectors(299), lists=8), made)
    assert wrong.startswith("the certificate is of 300 rows, and the index has 299: ")
    (wrong,) = recheck(ListIndex(random_vectors(300), lists=16), made)
    assert wrong.startswith("recall@10 of 200 held-out queries is 0.")


def test_the_report_escapes_names_and_needs_no_other_file(tmp_path: Path) -> None:
    made = certified(
        ListIndex(random_vectors(240), lists=8), queries=text_dataset(tmp_path / "<q>", 100)
    )
    page = report(index_card("/photos/<script>alert(1)</script>"), made)

    tags = Tags()
    tags.feed(page)
    assert tags.names["script"] == tags.names["img"] == tags.names["link"] == 0
    assert tags.names["svg"] == tags.names["title"] - 1 == tags.names["desc"] == 2
    assert "://" not in page
    assert "&lt;script&gt;" in page


def test_the_report_says_that_texts_are_not_certified() -> None:
    made = certified(ListIndex(random_vectors(50)), EXACT)

    page = report(index_card("/photos", EXACT), made)

    assert "Queries by texts are not certified" in page
    assert "This index is exact" in page
    assert "settings" not in page.lower()  # there was one


class Tags(HTMLParser):
    """Counts the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.names[tag] += 1


def index_card(dataset: str, structure: Structure = LISTS) -> IndexCard:
    return IndexCard(
        dataset=dataset,
        model=make_card("img"),
        structure=structure,
        shards=(),
        parameters=structure.parameters(),
        seconds=2.0,
        created_at="2026-11-22T00:00:00.000+00:00",
    )
