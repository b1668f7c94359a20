"""Every key of the schema changes what is built or what a run does, so no key is ignored.

The changed values are in `tests/helpers/key_changes.py`.
"""

import copy
import itertools
import json
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ValidationError

from retinanet.config import Config, DataSource, ModelConfig
from retinanet.config.base import models_in
from retinanet.engine import setup
from retinanet.formats.read import read_dataset
from retinanet.formats.voc.writer import write_voc
from retinanet.inference.predictor import Predictor
from retinanet.model.retinanet import build_model, build_model_for_training
from tests.helpers.backbones import IMAGES, resnet18, saved_bytes
from tests.helpers.key_changes import CHANGES, CONTEXT, DEFAULTS, FIXED, OF_THE_MODEL, REFUSED, REFUSED_BEFORE
from tests.helpers.states import assert_same_state, is_same_state
from tests.helpers.tiny_runs import record_of_run, recording, write_tiny_dataset

timm = pytest.importorskip("timm", reason="needs timm")
pytestmark = pytest.mark.usefixtures("restore_process_settings", "no_tracker_is_installed")


def leaves(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Every key except sections and the types of union members; `unions` has the latter."""
    for name, field in model.model_fields.items():
        members = models_in(field.annotation)
        if name != "type" and (not members or takes_a_list(field.annotation)):
            yield prefix + name
        for member in members:
            kind = f"[{member.model_fields['type'].default}]" if len(members) > 1 else ""
            yield from leaves(member, f"{prefix}{name}{kind}.")


def unions(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """Every union of records as its key and the types of its members."""
    for name, field in model.model_fields.items():
        members = models_in(field.annotation)
        if len(members) == 1:
            yield from unions(members[0], f"{prefix}{name}.")
        elif members:
            yield prefix + name, [member.model_fields["type"].default for member in members]


def takes_a_list(annotation: Any) -> bool:
    return typing.get_origin(annotation) is tuple or any(map(takes_a_list, typing.get_args(annotation)))


LEAVES = list(leaves())
UNIONS = dict(unions())
TYPES = [f"{key}[{kind}]" for key, kinds in UNIONS.items() for kind in kinds]


def place(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a key in nested values. In a list, it belongs to the first record, or the first of the type in brackets."""
    *parents, last = key.split(".")
    for parent in parents:
        name, _, kind = parent.rstrip("]").partition("[")
        entry = values.setdefault(name, {})
        if isinstance(entry, list):
            entry = next(item for item in entry if isinstance(item, dict) and kind in ("", item.get("type")))
        elif kind and entry.get("type") != kind:
            entry = values[name] = {"type": kind}
        values = entry
    values[last] = value


def filled(value: Any, paths: dict[str, Any]) -> Any:
    """Replace the names in braces in a value."""
    if isinstance(value, dict):
        return {name: filled(entry, paths) for name, entry in value.items()}
    if isinstance(value, list):
        return [filled(entry, paths) for entry in value]
    return paths[value[1:-1]] if isinstance(value, str) and value.startswith("{") else value


def values_of(settings: dict[str, Any], paths: dict[str, Any]) -> dict[str, Any]:
    """DEFAULTS, updated with some settings by key, as nested values."""
    values: dict[str, Any] = {}
    for key, value in (DEFAULTS | settings).items():
        place(values, key, copy.deepcopy(filled(value, paths)))
    return values


def record_of(key: str, values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Record everything that a key could affect in a run with these values."""
    if key in OF_THE_MODEL:
        return record_of_model(ModelConfig.model_validate_json(json.dumps(values["model"])))
    cfg = Config.model_validate_json(json.dumps(values))
    if key.startswith("inference."):
        return record_of_prediction(cfg)
    with pytest.MonkeyPatch.context() as patch:
        if key == "train.allow_local_norm":
            patch.setattr(setup, "world_size", lambda: 2)
        return record_of_run(cfg, folder)


def record_of_model(cfg: ModelConfig) -> dict[str, Any]:
    """Weights, outputs and saved activations of a real network."""
    torch.manual_seed(0)
    model = build_model_for_training(cfg, 2).train()
    outputs = model(IMAGES.mul(50).add(128).clamp(0, 255).byte(), torch.tensor([IMAGES.shape[2:]] * 2))
    return {
        "weights": dict(model.state_dict()),
        "trained": [parameter.requires_grad for parameter in model.parameters()],
        "outputs": [*outputs.class_logits, *outputs.box_deltas],
        "saved bytes": saved_bytes(model.backbone, IMAGES),
    }


def record_of_prediction(cfg: Config) -> dict[str, Any]:
    """Detections of a network with random weights, and the recorded compilations."""
    record: dict[str, Any] = {}
    with recording(record):
        torch.manual_seed(0)
        predictor = Predictor(build_model(cfg.model, 2), ("cat", "dog"), (1, 2), cfg)
        found = predictor(
            torch.randint(256, (3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        )
    return record | {"detections": [found.boxes, found.scores, found.labels]}


@pytest.fixture
def no_tracker_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> dict[str, Any]:
    """Datasets, weights and a checkpoint, by the names in braces in the tables."""
    folder = tmp_path_factory.mktemp("keys")
    torch.save(resnet18().state_dict(), folder / "weights.pth")
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "timm.pth")
    result: dict[str, Any] = {
        "train": write_tiny_dataset(folder / "train"),
        "val": write_tiny_dataset(folder / "val", seed=1),
        "damaged": write_tiny_dataset(folder / "damaged", last_is_damaged=True),
        "lacking": write_tiny_dataset(folder / "lacking"),
        "outside": write_tiny_dataset(folder / "outside") | {"images": str(folder / "train")},
        "16 bits": write_tiny_dataset(folder / "wide", bits=16),
        "other images": write_tiny_dataset(folder / "other", seed=2)["images"],
        "weights": str(folder / "weights.pth"),
        "timm weights": str(folder / "timm.pth"),
        "checkpoint": str(folder / "run/checkpoints/last.pt"),
    }
    (folder / "lacking/3.png").unlink()
    outside = Path(result["outside"]["annotations"])
    document = json.loads(outside.read_text())
    for image in document["images"]:
        image["file_name"] = str(folder / "outside" / image["file_name"])
    outside.write_text(json.dumps(document))
    truth = json.loads(Path(result["train"]["annotations"]).read_text())
    for annotation in truth["annotations"]:
        annotation["bbox"][1] += 2
    (folder / "moved.json").write_text(json.dumps(truth))
    result["moved boxes"] = str(folder / "moved.json")
    result["two formats"] = two_formats(folder / "two", result["train"], truth)
    values = values_of({"train.seed": 7}, result)
    assert record_of("", values, folder / "run")["error"] is None
    return result


def two_formats(folder: Path, source: dict[str, str], other_truth: dict[str, Any]) -> dict[str, str]:
    """A dataset in Pascal VOC format with two splits and a difficult object, and different boxes in COCO format."""
    write_voc(read_dataset((DataSource.model_validate(source),)), folder, split="train")
    (folder / "ImageSets/Main/val.txt").write_text("1\n3\n4\n")
    for split in ("train", "val"):
        (folder / f"instances_{split}.json").write_text(json.dumps(other_truth))
    return {"annotations": str(folder), "images": source["images"], "format": "voc"}


def union_member(key: str) -> str:
    """The first part of a key, up to its type in brackets; empty if it has none."""
    return key[: key.find("]") + 1]


def with_member(key: str, settings: dict[str, Any], paths: dict[str, Any]) -> dict[str, Any]:
    """The values of some settings, with the union member to which a key belongs."""
    values = values_of(settings, paths)
    if member := union_member(key):
        place(values, f"{member}.type", member.rpartition("[")[2][:-1])
    return values


@pytest.fixture(scope="module")
def before(paths, tmp_path_factory):
    """The record of a run with a key's context but its default value, computed once per context."""
    records: dict[str, dict[str, Any]] = {}

    def record(key: str) -> dict[str, Any]:
        context = CONTEXT.get(key, {})
        kind = [key in OF_THE_MODEL, key.startswith("inference."), key in REFUSED_BEFORE, union_member(key)]
        name = json.dumps([kind, context])
        if name not in records:
            values = with_member(key, context, paths)
            records[name] = record_of(key, values, tmp_path_factory.mktemp("before") / "run")
        return records[name]

    return record


def test_tables_name_keys_of_the_schema():
    assert [key for key in LEAVES if key not in CHANGES | FIXED] == [], "add a changed value to CHANGES"
    assert {key for key in CHANGES | FIXED | CONTEXT | REFUSED | REFUSED_BEFORE if key not in LEAVES} <= set(TYPES)


@pytest.mark.slow
@pytest.mark.parametrize("key", CHANGES)
def test_key_has_an_effect(key, paths, before, tmp_path):
    values = with_member(key, CONTEXT.get(key, {}), paths)
    place(values, key, filled(CHANGES[key], paths))
    first, second = before(key), record_of(key, values, tmp_path / "run")
    for record, refusals in ((first, REFUSED_BEFORE), (second, REFUSED)):
        if key in refusals:
            assert refusals[key] in record["error"]
        else:
            assert record.get("error") is None
    assert not is_same_state(first, second)


@pytest.mark.parametrize(("key", "value"), FIXED.items())
def test_key_with_one_legal_value_rejects_others(key, value, paths):
    values = values_of({}, paths)
    place(values, key, value)
    with pytest.raises(ValidationError, match=key.rpartition(".")[2]):
        Config.model_validate_json(json.dumps(values))


@pytest.mark.parametrize("union", UNIONS)
def test_members_of_a_union_differ(union, paths, before):
    members = [f"{union}[{kind}]" for kind in UNIONS[union]]
    for one, other in itertools.combinations(members, 2):
        assert not is_same_state(before(one), before(other)), (one, other)


def test_same_config_has_the_same_record(paths, before, tmp_path):
    """Otherwise a difference would prove nothing."""
    for key in ("train.seed", "inference.precision", "model.backbone[resnet].norm"):
        assert_same_state(record_of(key, values_of({}, paths), tmp_path / key), before(key))
