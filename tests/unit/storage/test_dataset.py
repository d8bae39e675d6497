import dataclasses
import json
import threading
from pathlib import Path

import pytest

from clipfleet.errors import CardError, DatasetError, DatasetMismatchError, UsageError
from clipfleet.images import ORIGINAL_RULES, PictureRules
from clipfleet.settings.engines import Decode
from clipfleet.storage.format.dataset import Dataset
from tests.datasets import DIM, make_card


def create(root: Path | str) -> Dataset:
    return Dataset.create(str(root), make_card(), kind="planned", embedding_dtype="float16")


def test_a_new_dataset_describes_its_contents(tmp_path: Path) -> None:
    dataset = create(tmp_path / "new" / "out")
    assert dataset.root == f"{tmp_path}/new/out"
    assert (dataset.info.tower, dataset.info.dim) == ("txt", DIM)
    assert dataset.info.card == make_card()
    fields = json.loads((tmp_path / "new" / "out" / "dataset.json").read_text())
    assert fields["format"] == 1
    assert fields["model"] == make_card().identity
    assert fields["embedding_dtype"] == "float16"


def test_creating_again_opens_it(tmp_path: Path) -> None:
    first = create(tmp_path)
    assert create(tmp_path).info == first.info
    assert Dataset.open(f"file://{tmp_path}").info == first.info


def test_an_engine_built_elsewhere_is_the_same_model(tmp_path: Path) -> None:
    create(tmp_path)
    other = dataclasses.replace(make_card(), engine="b.trt", engine_sha256="b" * 64)
    opened = Dataset.create(str(tmp_path), other, kind="planned", embedding_dtype="float16")
    assert opened.info.card.engine == "tiny.onnx"


@pytest.mark.parametrize("other", [make_card(checkpoint="d"), make_card("img")])
def test_another_model_is_refused_and_both_are_named(tmp_path: Path, other: object) -> None:
    create(tmp_path)
    with pytest.raises(DatasetMismatchError) as caught:
        Dataset.create(str(tmp_path), other, kind="planned", embedding_dtype="float16")  # type: ignore[arg-type]
    message = str(caught.value)
    assert make_card().identity[:12] in message
    assert other.identity[:12] in message  # type: ignore[attr-defined]
    assert "choose another output folder" in message


def test_another_embedding_dtype_is_refused(tmp_path: Path) -> None:
    create(tmp_path)
    with pytest.raises(DatasetMismatchError, match="holds float16 vectors, not float32"):
        Dataset.create(str(tmp_path), make_card(), kind="planned", embedding_dtype="float32")


@pytest.mark.parametrize(("own", "other"), [("exact", "gpu"), ("gpu", "exact")])
def test_vectors_of_another_decoder_are_refused(tmp_path: Path, own: Decode, other: Decode) -> None:
    def create(decode: Decode) -> Dataset:
        card = make_card("img")
        return Dataset.create(
            str(tmp_path), card, kind="planned", embedding_dtype="float16", decode=decode
        )

    create(own)
    fields = json.loads((tmp_path / "dataset.json").read_text())
    assert fields.get("decode") == (None if own == "exact" else own)  # as in older datasets
    assert create(own).info.decode == own
    with pytest.raises(DatasetMismatchError, match=f"decode '{own}', not '{other}': use --decode"):
        create(other)


RULES = [
    PictureRules(),
    PictureRules(sixteen_bit="scale"),
    PictureRules(sixteen_bit="original"),
    PictureRules(alpha="white"),
    PictureRules(truncated="allow"),
]


@pytest.mark.parametrize("own", RULES)
@pytest.mark.parametrize("other", RULES)
def test_pictures_of_other_rules_are_refused(
    tmp_path: Path, own: PictureRules, other: PictureRules
) -> None:
    def create(rules: PictureRules) -> Dataset:
        card = make_card("img")
        return Dataset.create(
            str(tmp_path), card, kind="planned", embedding_dtype="float16", rules=rules
        )

    assert create(own).info.rules == own
    if own == other:
        return
    with pytest.raises(DatasetMismatchError) as caught:
        create(other)
    for name, value in dataclasses.asdict(own).items():
        option = f"use --{name.replace('_', '-')} {value} (CLIPFLEET_{name.upper()}={value})"
        if value != getattr(other, name):
            assert option in str(caught.value)
            break


def test_a_dataset_that_names_no_rules_has_the_originals(tmp_path: Path) -> None:
    card = make_card("img")
    made = Dataset.create(str(tmp_path), card, kind="planned", embedding_dtype="float16")
    path = tmp_path / "dataset.json"
    fields = json.loads(path.read_text())
    assert fields.pop("sixteen_bit") == "error"
    path.write_text(json.dumps(fields))
    assert Dataset.open(made.root).info.rules == ORIGINAL_RULES
    path.write_text(json.dumps({**fields, "alpha": "pink"}))
    with pytest.raises(DatasetError, match="alpha 'pink'"):
        Dataset.open(made.root)


def test_texts_have_no_rules_of_pictures(tmp_path: Path) -> None:
    create(tmp_path)
    assert "sixteen_bit" not in json.loads((tmp_path / "dataset.json").read_text())
    rules = PictureRules(alpha="white")  # as of a setting for the workers of both towers
    Dataset.create(
        str(tmp_path), make_card(), kind="planned", embedding_dtype="float16", rules=rules
    )


def test_the_gpu_decodes_no_texts(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"--decode gpu is for images, and tiny\.onnx is an engine"
    ):
        Dataset.create(
            str(tmp_path), make_card(), kind="stream", embedding_dtype="float16", decode="gpu"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(DatasetError, match=r"holds 'thesis\.doc' and 0 more"):
        create(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["thesis.doc"]


def test_an_empty_folder_hidden_files_and_a_killed_creation_are_fine(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "_temporary").mkdir()
    (tmp_path / "lost+found").mkdir()
    assert create(tmp_path).info.tower == "txt"


def test_of_many_creators_one_wins_and_all_see_its_model(tmp_path: Path) -> None:
    start = threading.Barrier(8)
    outcomes: list[str] = []

    def make(number: int) -> None:
        card = make_card(checkpoint="cd"[number % 2])
        start.wait()
        try:
            dataset = Dataset.create(
                f"{tmp_path}/out", card, kind="planned", embedding_dtype="float16"
            )
            outcomes.append(dataset.info.model)
        except DatasetMismatchError:
            outcomes.append("refused")

    threads = [threading.Thread(target=make, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("refused") == 4
    assert outcomes.count(Dataset.open(f"{tmp_path}/out").info.model) == 4


def test_opening_a_folder_without_a_dataset_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no dataset at .*clipfleet submit"):
        Dataset.open(str(tmp_path))
    with pytest.raises(UsageError, match="gs://"):
        Dataset.open("gs://bucket/out")
    for tower in ("img", "txt"):
        (tmp_path / "both" / tower).mkdir(parents=True)
        (tmp_path / "both" / tower / "dataset.json").write_text("{}")
    with pytest.raises(DatasetError, match="of both towers are below it: add /img or /txt to its"):
        Dataset.open(str(tmp_path / "both"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 2}, "has format 2; this clipfleet reads 1"),
        ({"model": "0" * 64}, "is not its card's"),
        ({"dim": 7}, "dim 7 is not its card's 8"),
        ({"embedding_dtype": "int8"}, "embedding_dtype 'int8'"),
    ],
)
def test_a_changed_dataset_json_is_refused(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    create(tmp_path)
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DatasetError, match=reason):
        Dataset.open(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}'])
def test_a_damaged_dataset_json_is_an_error_of_the_dataset(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=r"dataset\.json is damaged"):
        Dataset.open(str(tmp_path))


def test_a_damaged_card_in_dataset_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"format": 1, "card": {}}')
    with pytest.raises(CardError, match=r"dataset\.json"):
        Dataset.open(str(tmp_path))
