"""The contracts of all folders: messages, cards, architectures and settings."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from clipfleet.architectures import architecture_names, load_architecture
from clipfleet.engine_files import check_files, sha256_of
from clipfleet.errors import (
    ArchitectureError,
    CardError,
    EngineError,
    ItemError,
    MessageError,
    SettingsError,
)
from clipfleet.items import Item
from clipfleet.messages import EmbedTask, Shard, queue_name
from clipfleet.model_card import (
    ModelCard,
    Parity,
    TensorSpec,
    card_path,
    load_card,
    parse_card,
    write_card,
)
from clipfleet.settings import load_settings

TASK = EmbedTask(
    dataset="/vectors/a", tower="img", model="ab" * 32, shard=Shard(job="00001", index=42, size=7)
)


@pytest.fixture
def card() -> ModelCard:
    return ModelCard(
        architecture="demo",
        tower="img",
        runtime="onnxruntime",
        precision="fp16",
        engine="demo.img.fp16.onnx",
        engine_sha256="0" * 64,
        input=TensorSpec(name="image", shape=(1, 3, 96, 96), dtype="float32"),
        output=TensorSpec(name="unnorm_image_features", shape=(1, 128), dtype="float32"),
        logit_scale=4.6052,
        checkpoint_sha256="1" * 64,
        runtime_version="1.0",
        parity=Parity(
            reference="PyTorch float32",
            items=8,
            cosine_min=0.99995,
            cosine_mean=0.99999,
            max_abs_diff=1e-3,
            threshold=0.9999,
        ),
    )


def test_a_message_survives_its_way_through_json() -> None:
    assert EmbedTask.from_json(json.loads(json.dumps(TASK.to_json()))) == TASK


@pytest.mark.parametrize(
    "change",
    [
        {"shard": {"job": "1", "index": 0, "size": 1}},
        {"shard": {"job": "00001", "index": -1, "size": 1}},
        {"shard": {"job": "00001", "index": "0", "size": 1}},
        {"tower": "audio"},
        {"dataset": None},
        {"unknown": 1},
    ],
)
def test_a_message_with_a_wrong_field_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(MessageError, match=r"clipfleet\.embed"):
        EmbedTask.from_json({**TASK.to_json(), **change})


def test_shard_names_sort_as_the_items_were_planned() -> None:
    names = [Shard(job="00001", index=i, size=1).name for i in (2, 10, 9_999_999)]
    assert names == sorted(names) == ["00001-0000002", "00001-0000010", "00001-9999999"]


@pytest.mark.parametrize("fields", [{}, {"uri": "/a", "text": "b"}])
def test_an_item_has_a_uri_or_a_text(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="exactly one of uri and text"):
        Item(id="x", **fields)


def test_each_tower_has_a_queue() -> None:
    assert queue_name("img") == "clipfleet.img"
    assert queue_name("txt", "other") == "other.txt"


def test_a_card_survives_its_file(card: ModelCard, tmp_path: Path) -> None:
    engine = tmp_path / card.engine
    engine.write_bytes(b"engine")
    write_card(card, card_path(engine))
    for name in (engine, card_path(engine)):
        assert load_card(name) == (card, engine)
    assert sorted(p.name for p in tmp_path.iterdir()) == [card.engine, f"{card.engine}.card.json"]


def test_a_linked_model_finds_its_card(card: ModelCard, tmp_path: Path) -> None:
    blobs, snapshot, elsewhere = (tmp_path / name for name in ("blobs", "snapshot", "elsewhere"))
    for folder in (blobs, snapshot, elsewhere):
        folder.mkdir()
    (blobs / "0123").write_bytes(b"engine")
    write_card(card, blobs / "4567")
    engine = snapshot / card.engine
    engine.symlink_to("../blobs/0123")  # as in a cache of Hugging Face
    card_path(engine).symlink_to("../blobs/4567")
    (elsewhere / "newest.onnx").symlink_to(engine)
    assert load_card(engine) == load_card(card_path(engine)) == (card, engine)
    found, path = load_card(elsewhere / "newest.onnx")
    assert (found, path.resolve()) == (card, blobs / "0123")
    plain = tmp_path / card.engine
    plain.write_bytes(b"engine")
    write_card(card, card_path(plain))
    for name, target in (("a.onnx", plain), ("a.card.json", card_path(plain))):
        (elsewhere / name).symlink_to(target)
        assert load_card(elsewhere / name) == (card, plain)


def test_a_card_tells_its_sizes(card: ModelCard) -> None:
    assert (card.dim, card.resolution, card.batch_size) == (128, 96, 1)
    dynamic = replace(card, input=replace(card.input, shape=(None, 3, 96, 96)))
    assert dynamic.batch_size is None


def test_the_identity_is_the_models_and_not_the_engine_files(card: ModelCard) -> None:
    elsewhere = replace(card, engine_sha256="2" * 64, runtime="tensorrt", gpu="another")
    assert elsewhere.identity == card.identity
    batch = replace(card, input=replace(card.input, shape=(None, 3, 96, 96)))
    assert batch.identity == card.identity
    for other in (
        replace(card, checkpoint_sha256="3" * 64),
        replace(card, precision="fp32"),
        replace(card, tower="txt"),
        replace(card, architecture="other"),
    ):
        assert other.identity != card.identity


def test_parity_passes_at_its_threshold(card: ModelCard) -> None:
    assert card.parity is not None
    assert card.parity.passed
    assert not replace(card.parity, cosine_min=0.99).passed


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}'])
def test_a_card_that_is_none_names_its_origin(text: str) -> None:
    with pytest.raises(CardError, match=r"model card here\.json"):
        parse_card(text, origin="here.json")


def test_a_card_without_its_engine_says_so(card: ModelCard, tmp_path: Path) -> None:
    write_card(card, tmp_path / "alone.card.json")
    with pytest.raises(CardError, match=r"demo\.img\.fp16\.onnx, which is not beside it"):
        load_card(tmp_path / "alone.card.json")


def test_an_extra_file_that_is_missing_or_another_is_refused(
    card: ModelCard, tmp_path: Path
) -> None:
    engine, extra = tmp_path / card.engine, tmp_path / "extra"
    engine.write_bytes(b"engine")
    extra.write_bytes(b"weights")
    card = replace(
        card,
        engine_sha256=sha256_of(engine),
        extra_file=extra.name,
        extra_file_sha256=sha256_of(extra),
    )
    check_files(card, engine)
    extra.write_bytes(b"others")
    with pytest.raises(EngineError, match="extra has SHA-256"):
        check_files(card, engine)
    extra.unlink()
    with pytest.raises(EngineError, match="extra is missing"):
        check_files(card, engine)


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256_of(tmp_path / "empty") == digest


def test_the_published_architectures_are_known() -> None:
    assert {"RN50", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14"} <= set(architecture_names())
    assert load_architecture("ViT-H-14").text.width == 1024


def test_an_architecture_is_a_file(tmp_path: Path) -> None:
    fields = json.loads(
        (Path(__file__).parents[2] / "clipfleet/architectures/RN50.json").read_text()
    )
    (tmp_path / "mine.json").write_text(json.dumps({**fields, "name": "mine", "dim": 64}))
    assert load_architecture(tmp_path / "mine.json").dim == 64
    (tmp_path / "wrong.json").write_text(json.dumps({**fields, "dim": -1}))
    with pytest.raises(ArchitectureError, match=r"wrong\.json.*dim"):
        load_architecture(tmp_path / "wrong.json")


def test_settings_come_from_the_environment_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clipfleet.toml").write_text("shard_size = 5\nwindow_s = 0.5\n")
    monkeypatch.setenv("CLIPFLEET_SHARD_SIZE", "7")
    settings = load_settings(max_batch=9, tower=None)
    assert (settings.shard_size, settings.window_s, settings.max_batch) == (7, 0.5, 9)


def test_a_shard_has_more_items_for_tensorrt_unless_the_setting_says_how_many() -> None:
    default = load_settings()
    assert default.items_in_shard("tensorrt") == 4096
    assert default.items_in_shard("onnxruntime") == default.items_in_shard() == 1024
    assert load_settings(shard_size=5).items_in_shard("tensorrt") == 5


def test_a_wrong_setting_is_named_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPFLEET_SHARD_SIZE", "many")
    with pytest.raises(SettingsError, match=r"shard_size.*many"):
        load_settings()


def test_a_misspelt_variable_is_named_and_another_programs_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLIPFLEET_SERVICE_HOST", "10.0.0.1")  # an orchestrator's
    load_settings()
    monkeypatch.setenv("CLIPFLEET_VISIBILITY_TIMEOUT", "5")
    with pytest.raises(SettingsError, match="did you mean CLIPFLEET_VISIBILITY_TIMEOUT_S"):
        load_settings()


def test_a_configuration_that_is_named_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPFLEET_CONFIG", "/nowhere.toml")
    with pytest.raises(SettingsError, match=r"/nowhere\.toml, which is not a file"):
        load_settings()


def test_input_roots_are_folders_with_colons_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings().input_roots == ()
    (tmp_path / "clipfleet.toml").write_text('input_roots = ["/a", "/b c"]\n')
    assert load_settings().input_roots == ("/a", "/b c")
    monkeypatch.setenv("CLIPFLEET_INPUT_ROOTS", "/data:/mnt/more")
    assert load_settings().input_roots == ("/data", "/mnt/more")
    for wrong in ("", "data", "/data:", "~/data", "./data:/mnt"):  # "": unset by mistake
        monkeypatch.setenv("CLIPFLEET_INPUT_ROOTS", wrong)
        with pytest.raises(SettingsError, match=r"input_roots.*is no absolute path"):
            load_settings()


def test_an_item_error_has_a_class_and_a_message() -> None:
    error = ItemError("missing", "it is not there")
    assert (error.code, str(error)) == ("missing", "it is not there")
