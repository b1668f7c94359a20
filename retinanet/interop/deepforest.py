"""Weights of DeepForest, which are those of torchvision's RetinaNet with a dict of labels."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retinanet.config import PostprocessConfig
from retinanet.errors import InputError, first_line
from retinanet.interop.imported import ImportedDetector
from retinanet.interop.torchvision import import_torchvision
from retinanet.interop.weight_files import WeightFile

CONFIG_FILE = "config.json"  # next to `model.safetensors` in a folder from the Hugging Face hub
# DeepForest's defaults for settings that a config does not contain, and their names there.
NMS_IOU, MIN_SCORE, MAX_DETECTIONS, TOP_K = 0.05, 0.1, 300, 1000


def deepforest_settings(file: WeightFile) -> dict[str, Any] | None:
    """Settings that DeepForest saved with weights: in `config.json` in the same folder, or in a Lightning checkpoint.

    Returns None if there is no dict of labels, so that the weights are not known to be DeepForest's.

    Raises:
        InputError: the config file cannot be read.
    """
    path = file.path.parent / CONFIG_FILE
    found = [file.others, file.others.get("hyper_parameters")]
    if path.is_file():
        found.insert(0, _read_config(path))
    return next((dict(one) for one in found if isinstance(one, Mapping) and is_label_dict(one.get("label_dict"))), None)


def is_label_dict(value: Any) -> bool:
    """Whether a value maps class names to the labels 0 to K - 1."""
    return isinstance(value, Mapping) and len(value) > 0 and sorted(value.values()) == list(range(len(value)))


def import_deepforest(file: WeightFile, *, source: str) -> ImportedDetector:
    """Convert weights of DeepForest, with the class names and thresholds that were saved with them.

    Args:
        source: name of the weights for messages.

    Raises:
        InputError: the weights belong to another network, or do not match the labels.
    """
    settings = deepforest_settings(file) or {}
    labels = settings.get("label_dict") or {}
    try:
        postprocess = PostprocessConfig(
            min_score=float(settings.get("score_thresh", MIN_SCORE)),
            nms_iou=float(settings.get("nms_thresh", NMS_IOU)),
            max_detections=int(settings.get("detections_per_img", MAX_DETECTIONS)),
            top_k=int(settings.get("topk_candidates", TOP_K)),
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"{source}: invalid thresholds in its config: {first_line(error)}") from None
    return import_torchvision(
        file.state,
        source=source,
        class_names=tuple(sorted(labels, key=labels.__getitem__)) or None,
        postprocess=postprocess,
    )


def _read_config(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{path}: is not JSON: {first_line(error)}") from None
