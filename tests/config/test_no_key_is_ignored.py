"""Every key of the schema changes what is built or what a run does, so no key is ignored.

Each key has a changed value in CHANGES and, where the defaults below would hide its effect, other settings in CONTEXT.
Keys of a union member are named like `train.optimizer[adamw].betas`.
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

from retinanet.config import Config, DataSource, ModelConfig, ResNetConfig, TimmConfig
from retinanet.config.base import models_in
from retinanet.engine import setup
from retinanet.formats.read import read_dataset
from retinanet.formats.voc.writer import write_voc
from retinanet.inference.predictor import Predictor
from retinanet.model.retinanet import build_model, build_model_for_training
from tests.helpers.backbones import IMAGES, resnet18, saved_bytes
from tests.helpers.states import assert_same_state, is_same_state
from tests.helpers.tiny_runs import record_of_run, recording, write_tiny_dataset

timm = pytest.importorskip("timm", reason="needs timm")
pytestmark = pytest.mark.usefixtures("restore_process_settings", "no_tracker_is_installed")

# Settings of a tiny run in which most keys have an effect. Text in braces names a file of the fixture `paths`.
DEFAULTS: dict[str, Any] = {
    "data.train": ["{train}"],
    "data.val": ["{val}"],
    "data.workers": 0,
    "data.resize": {"shorter": [32], "longer": 64, "divisor": 8},
    "data.transforms": [{"type": "resize"}],
    "model.backbone": {"type": "resnet", "name": "resnet18", "weights": "none", "frozen_stages": 0},
    "model.channels": 4,
    "model.head_convs": 1,
    "model.prior": 0.2,
    "postprocess": {"min_score": 0.0, "max_detections": 20},
    "inference.precision": "fp32",
    "train": {
        "steps": 3,
        "batch_size": 2,
        "log_every": 1,
        "save_every": 3,
        "eval_every": 3,
        "warmup_steps": 0,
        "precision": "fp32",
        "reference_batch_size": None,
    },
    "device": "cpu",
}

CHANGES: dict[str, Any] = {
    "data.train": ["{train}", "{val}"],
    "data.train.images": "{other images}",
    "data.train.annotations": "{moved boxes}",
    "data.train.format": "coco",
    "data.train.split": "val",
    "data.train.difficult": "object",
    "data.val": [],
    "data.val.format": "coco",
    "data.val.split": "train",
    "data.val.difficult": "object",
    "data.val.images": "{other images}",
    "data.val.annotations": "{moved boxes}",
    "data.val_fraction": 0.3,
    "data.val_group": "[123]()|[456]",
    "data.classes": ["dog", "cat"],
    "data.classes.name": "animal",
    "data.classes.merge": ["cat", "dog"],
    "data.keep_empty": False,
    "data.strict": True,
    "data.missing_images": "skip",
    "data.allow_outside_paths": True,
    "data.max_pixels": 100,
    "data.value_range": [0, 1000],
    "data.bands": [3, 2, 1],
    "data.band_files": ["train/{stem}.png", "other/{stem}.png"],
    "data.max_unreadable": 0,
    "data.workers": 1,
    "data.resize.shorter": [24],
    "data.resize.longer": 40,
    "data.resize.val_shorter": 24,
    "data.resize.bucket_aspects": [1.0],
    "data.resize.divisor": 32,
    "data.transforms": [{"type": "resize"}, {"type": "flip", "p": 1.0}],
    "data.transforms[scale_jitter].min": 0.5,
    "data.transforms[scale_jitter].max": 1.5,
    "data.transforms[flip].p": 1.0,
    "data.transforms[color].brightness": 0.5,
    "data.transforms[color].contrast": 0.5,
    "data.transforms[color].saturation": 0.5,
    "data.transforms[color].hue": 0.5,
    "data.transforms[vertical_flip].p": 1.0,
    "data.transforms[rotate90].p": 1.0,
    "data.transforms[rotate90].angles": [90],
    "data.transforms[crop].size": [16, 16],
    "data.transforms[iou_crop].p": 0.0,
    "data.transforms[iou_crop].min_scale": 0.9,
    "data.transforms[zoom_out].p": 1.0,
    "data.transforms[zoom_out].max": 2.0,
    "data.transforms[photometric].p": 1.0,
    "data.transforms[blur].p": 1.0,
    "data.transforms[blur].max_sigma": 9.0,
    "data.transforms[erase].p": 1.0,
    "data.transforms[erase].max_area": 0.9,
    "data.transforms[mosaic].p": 1.0,
    "data.transforms[mixup].p": 1.0,
    "data.transforms[mixup].alpha": 1.0,
    "data.transforms[copy_paste].p": 1.0,
    "data.transforms[copy_paste].max_objects": 1,
    "data.close_last_epochs": 1,
    "data.sampling[repeat_factor].threshold": 0.5,
    "model.backbone[resnet].name": "resnet34",
    "model.backbone[resnet].weights": "{weights}",
    "model.backbone[resnet].norm": "group",
    "model.backbone[resnet].norm_eps": 0.1,
    "model.backbone[resnet].stride_in_1x1": True,
    "model.backbone[resnet].frozen_stages": 2,
    "model.backbone[resnet].checkpoint_activations": True,
    "model.backbone[timm].name": "test_convnext",
    "model.backbone[timm].weights": "{timm weights}",
    "model.backbone[timm].norm": "batch",
    "model.backbone[timm].frozen_stages": 2,
    "model.backbone[timm].checkpoint_activations": True,
    "model.channels": 8,
    "model.levels": "p3..p6",
    "model.p6_from": "p5",
    "model.head_convs": 2,
    "model.head_norm": "group",
    "model.head_conv_bias": False,
    "model.prior": 0.1,
    "model.class_precision": "fp32",
    "model.class_activation": "softmax",
    "model.num_classes": 3,
    "model.anchors.sizes": [16, 32, 64, 128, 256],
    "model.anchors.scales": [1.0],
    "model.anchors.aspect_ratios": [1.0],
    "model.anchors.offset": 0.5,
    "model.anchors.rounding": "torchvision",
    "model.in_channels": 1,
    "model.mean": [0.0, 0.0, 0.0],
    "model.std": [50.0, 50.0, 50.0],
    "assignment[iou].fg_iou": 0.7,
    "assignment[iou].bg_iou": 0.1,
    "assignment[iou].low_quality_matches": False,
    "assignment[iou].match_every_object": True,
    "assignment[iou].ignore_ioa": 0.0,
    "assignment[atss].anchors_per_level": 1,
    "assignment[atss].ignore_ioa": 0.0,
    "loss.classification[focal].alpha": 0.5,
    "loss.classification[focal].gamma": 1.0,
    "loss.classification[cross_entropy].alpha": 0.25,
    "loss.classification[focal_star].gamma": 1.0,
    "loss.classification[focal_star].beta": 0.0,
    "loss.classification[ohem].keep": 4,
    "loss.classification[ohem].nms_iou": None,
    "loss.classification[ohem].one_to_three": True,
    "loss.classification[quality_focal].beta": 1.0,
    "loss.classification[varifocal].alpha": 0.25,
    "loss.classification[varifocal].gamma": 1.0,
    "loss.classification[softmax_focal].alpha": 0.25,
    "loss.classification[softmax_focal].gamma": 1.0,
    "loss.box[smooth_l1].beta": 1.0,
    "loss.class_weight": 2.0,
    "loss.box_weight": 2.0,
    "postprocess.min_score": 0.9,
    "postprocess.top_k": 2,
    "postprocess.nms_iou": 0.9,
    "postprocess.nms_across_classes": True,
    "postprocess.max_detections": 3,
    "evaluation.max_detections": 1,
    "inference.precision": "bf16",
    "inference.compile": True,
    "train.batch_size": 1,
    "train.accumulate": 2,
    "train.epochs": 2.0,
    "train.steps": 2,
    "train.seed": 1,
    "train.deterministic": True,
    "train.precision": "bf16",
    "train.compile": True,
    "train.optimizer[sgd].lr": 0.02,
    "train.optimizer[sgd].momentum": 0.5,
    "train.optimizer[sgd].weight_decay": 0.1,
    "train.optimizer[sgd].norm_weight_decay": 0.1,
    "train.optimizer[sgd].backbone_lr": 0.02,
    "train.optimizer[sgd].layer_decay": 0.5,
    "train.optimizer[adamw].backbone_lr": 1e-3,
    "train.optimizer[adamw].layer_decay": 0.5,
    "train.optimizer[adamw].lr": 1e-3,
    "train.optimizer[adamw].betas": [0.5, 0.9],
    "train.optimizer[adamw].weight_decay": 0.5,
    "train.optimizer[adamw].norm_weight_decay": 0.5,
    "train.schedule[steps].milestones": [1 / 3],
    "train.schedule[steps].gamma": 0.5,
    "train.schedule[cosine].end": 0.5,
    "train.reference_batch_size": 16,
    "train.lr_scaling": "sqrt",
    "train.warmup_steps": 2,
    "train.warmup_factor": 0.5,
    "train.freeze_backbone_steps": 2,
    "train.clip_norm": 0.01,
    "train.ema_decay": 0.5,
    "train.init_from": "{checkpoint}",
    "train.on_nonfinite": "skip",
    "train.max_skipped": 1,
    "train.allow_local_norm": True,
    "train.log_every": 2,
    "train.save_every": 1,
    "train.eval_every": 2,
    "train.eval_batch_size": 1,
    "train.keep_checkpoints": 1,
    "train.best_metric": "loss",
    "train.early_stop": 1,
    "train.max_hours": 1e-9,
    "train.stall_timeout": 300.0,
    "train.grace": 5.0,
    "device": "none such",
    "train.trackers": ["trackio"],
    **{f"custom.{part}": "users_module.Part" for part in ("class_loss", "loss", "train_data", "val_data")},
}

COLOR = {"type": "color", "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
JITTER = [{"type": "scale_jitter"}]
# Other transforms and their keys, each placed before a resize. All keys of a transform share one context.
OTHER_TRANSFORMS: dict[str, tuple[str, ...]] = {
    "vertical_flip": ("", ".p"),
    "rotate90": ("", ".p", ".angles"),
    "iou_crop": ("", ".p", ".min_scale"),
    "zoom_out": ("", ".p", ".max"),
    "photometric": ("", ".p"),
    "blur": ("", ".p", ".max_sigma"),
    "erase": ("", ".p", ".max_area"),
    "mosaic": ("", ".p"),
    "mixup": ("", ".p", ".alpha"),
    "copy_paste": ("", ".p"),
}
CROP = [{"type": "crop", "size": [24, 24]}, {"type": "resize"}]
TIMM = {"type": "timm", "name": "test_resnet", "weights": "none", "frozen_stages": 0}
SOFTMAX = {"model.class_activation": "softmax"}
DIVERGING = {"train.optimizer": {"type": "sgd", "lr": 1e30}, "train.steps": 5, "data.val": []}

CONTEXT: dict[str, dict[str, Any]] = {
    **{f"data.train.{name}": {"data.train": ["{two formats}"]} for name in ("format", "split", "difficult")},
    **{f"data.val.{name}": {"data.val": ["{two formats}"]} for name in ("format", "split", "difficult")},
    "data.val_fraction": {"data.val": []},
    "data.val_group": {"data.val": [], "data.val_fraction": 0.3},
    "model.class_precision": {"train.precision": "bf16"},
    "assignment[iou].match_every_object": {"assignment": {"type": "iou", "fg_iou": 0.9, "low_quality_matches": False}},
    "data.classes.name": {"data.classes": [{"name": "pet", "merge": ["cat"]}, "dog"]},
    "data.classes.merge": {"data.classes": [{"name": "pet", "merge": ["cat"]}]},
    "data.missing_images": {"data.train": ["{lacking}"]},
    "data.allow_outside_paths": {"data.train": ["{outside}"]},
    "data.value_range": {"data.train": ["{16 bits}"]},
    "data.band_files": {"data.bands": [4, 2, 3], "data.val": []},
    "data.max_unreadable": {"data.train": ["{damaged}"], "train.steps": 6},
    "data.transforms[scale_jitter].min": {"data.transforms": JITTER},
    "data.transforms[scale_jitter].max": {"data.transforms": JITTER},
    "data.transforms[flip].p": {"data.transforms": [{"type": "resize"}, {"type": "flip", "p": 0.0}]},
    "data.transforms[resize]": {"data.transforms": [{"type": "resize"}]},
    "data.transforms[scale_jitter]": {"data.transforms": JITTER},
    "data.transforms[flip]": {"data.transforms": [{"type": "resize"}, {"type": "flip", "p": 1.0}]},
    "data.transforms[color]": {"data.transforms": [{"type": "resize"}, {"type": "color"}]},
    **{
        f"data.transforms[{name}]{key}": {"data.transforms": [{"type": name}, {"type": "resize"}]}
        for name, keys in OTHER_TRANSFORMS.items()
        for key in keys
    },
    **{f"data.transforms[crop]{key}": {"data.transforms": CROP} for key in ("", ".size")},
    "data.transforms[copy_paste].max_objects": {
        "data.transforms": [{"type": "copy_paste", "p": 1.0, "max_objects": 50}, {"type": "resize"}],
        "train.steps": 9,
    },
    "data.close_last_epochs": {"data.transforms": [{"type": "mosaic"}, {"type": "resize"}]},
    "data.sampling[repeat_factor].threshold": {"data.sampling": {"type": "repeat_factor", "threshold": 1.0}},
    "data.sampling[repeat_factor]": {"data.sampling": {"type": "repeat_factor", "threshold": 1.0}},
    **{
        f"data.transforms[color].{name}": {"data.transforms": [{"type": "resize"}, COLOR]}
        for name in ("brightness", "contrast", "saturation", "hue")
    },
    "model.backbone[resnet].frozen_stages": {"model.backbone.weights": "{weights}"},
    "model.backbone[resnet].stride_in_1x1": {"model.backbone.name": "resnet50"},
    **{
        f"model.backbone[timm]{key}": {"model.backbone": TIMM}
        for key in ("", ".name", ".weights", ".norm", ".checkpoint_activations")
    },
    "model.backbone[timm].frozen_stages": {"model.backbone": TIMM | {"weights": "{timm weights}"}},
    "model.head_norm": {"model.channels": 64},
    "model.head_conv_bias": {"model.channels": 64, "model.head_norm": "group"},
    **{f"loss.classification[softmax_focal]{name}": SOFTMAX for name in ("", ".alpha", ".gamma")},
    "train.epochs": {"train.steps": None, "train.epochs": 1.0},
    "train.lr_scaling": {"train.reference_batch_size": 16},
    "train.warmup_factor": {"train.warmup_steps": 2},
    "train.on_nonfinite": DIVERGING,
    "train.max_skipped": DIVERGING | {"train.on_nonfinite": "skip"},
    "train.allow_local_norm": {"model.backbone.norm": "batch"},
    "train.keep_checkpoints": {"train.save_every": 1},
    "train.early_stop": {
        "train.eval_every": 1,
        "train.optimizer": {"type": "adamw", "lr": 1e-12},
    },  # the learning rate is so small that no evaluation improves
}

# Keys whose effect is an error, either with the changed value or without it.
REFUSED = {
    "data.strict": "data.strict",
    "data.max_pixels": "pixels",
    "data.max_unreadable": "unreadable",
    "model.num_classes": "model.num_classes: is 3",
    "model.in_channels": "model.mean and model.std are not set",
    "train.max_skipped": "train.max_skipped",
    "device": "none such",
    "train.trackers": "trackio, which is not installed",
    **{f"custom.{part}": "users_module.Part; pass it" for part in ("class_loss", "loss", "train_data", "val_data")},
}
REFUSED_BEFORE = {
    "data.missing_images": "data.missing_images",
    "data.allow_outside_paths": "data.allow_outside_paths",
    "data.band_files": "data.bands selects band 4",
    "train.allow_local_norm": "train.allow_local_norm",
    "train.on_nonfinite": "diverged",
}
# Keys with a single legal value, and an illegal value for each.
FIXED = {"model.anchors.strides": [4, 8, 16, 32, 64], "custom.model": "users_module.Part"}
# Keys that affect the network itself, which is built with a real backbone.
OF_THE_MODEL = {
    *(f"model.backbone[resnet]{key}" for key in ("", *(f".{name}" for name in ResNetConfig.model_fields))),
    *(f"model.backbone[timm]{key}" for key in ("", *(f".{name}" for name in TimmConfig.model_fields))),
    "model.class_activation",
}


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
    """The defaults of this file, updated with some settings by key, as nested values."""
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
    """Datasets, weights and a checkpoint, by the names in braces above."""
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
