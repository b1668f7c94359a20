"""Read a detector of another framework, by name or from a file, and recognise the framework."""

from pathlib import Path

import torchvision

from retinanet.checkpoint.file import file_checksum
from retinanet.errors import InputError
from retinanet.interop.deepforest import CONFIG_FILE, deepforest_settings, import_deepforest
from retinanet.interop.detectron2 import import_detectron2, is_detectron2
from retinanet.interop.imported import ImportedDetector
from retinanet.interop.state_dicts import is_backbone, is_ours, listed
from retinanet.interop.torchvision import DEFAULT_EPS, import_torchvision, is_torchvision
from retinanet.interop.weight_files import WeightFile, read_weight_file
from retinanet.model.pretrained import HASH_IN_NAME, download_torchvision_weights

TORCHVISION_DETECTORS = ("retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2")
# torchvision trained these weights with eps = 0, and sets it when it loads them by name.
WITHOUT_EPS = ("retinanet_resnet50_fpn", "COCO_V1")
FRAMEWORKS = ("torchvision", "detectron2", "deepforest")


def is_named(source: str) -> bool:
    """Whether a source begins with the name of a framework, such as `torchvision:`, and is not a path."""
    return source.partition(":")[0] in FRAMEWORKS and ":" in source


def read_detector(source: str) -> ImportedDetector:
    """Read a detector of another framework, and convert its weights to our names.

    Args:
        source: the framework and a name or path, such as `torchvision:retinanet_resnet50_fpn_v2`,
            `detectron2:model_final.pkl` or `deepforest:FOLDER`; or only a path, whose framework is then recognised.

    Raises:
        InputError: the name is unknown, the download failed, the file cannot be read, or it contains another network.
    """
    if not is_named(source):
        return detector_in(read_weight_file(weight_file_in(Path(source))))
    framework, _, rest = source.partition(":")
    if framework == "torchvision" and not Path(rest).exists():
        return _download(rest)
    return detector_in(read_weight_file(weight_file_in(Path(rest))), framework)


def detector_in(file: WeightFile, framework: str | None = None) -> ImportedDetector:
    """Convert the detector in a file of weights.

    Args:
        framework: a member of FRAMEWORKS; None: recognised from the names of the tensors.

    Raises:
        InputError: the weights are not those of a RetinaNet, or of another framework than the one given.
    """
    source, state = str(file.path), file.state
    if is_detectron2(state) and framework in (None, "detectron2"):
        return import_detectron2(state, source=source)
    if is_torchvision(state) and framework != "detectron2":
        if framework == "deepforest" or (framework is None and deepforest_settings(file)):
            return import_deepforest(file, source=source)
        return import_torchvision(state, source=source, norm_eps=_eps_of(file.path))
    if is_detectron2(state) or is_torchvision(state):
        other = "detectron2" if is_detectron2(state) else "torchvision"
        raise InputError(f"{source}: contains weights of {other}, not of {framework}; pass {other}:{source}")
    if is_ours(state):
        raise InputError(
            f"{source}: contains only weights, without a config and class names; pass the checkpoint they come from, "
            f"or start a run from them with train.init_from={source}"
        )
    if is_backbone(state):
        raise InputError(
            f"{source}: contains only a backbone, not a detector; for ImageNet weights with torchvision's names, set "
            f"model.backbone.weights={source}"
        )
    raise InputError(
        f"{source}: not a RetinaNet of {', '.join(FRAMEWORKS)} or of this package: its tensors are {listed(state)}"
    )


def weight_file_in(path: Path) -> Path:
    """The file of weights in a folder from the Hugging Face hub, or the path itself if it is not such a folder."""
    weights = path / "model.safetensors"
    return weights if (path / CONFIG_FILE).is_file() and weights.is_file() else path


def _download(name: str) -> ImportedDetector:
    if name not in TORCHVISION_DETECTORS:
        raise InputError(
            f"torchvision:{name}: no such file or detector; expected {' or '.join(TORCHVISION_DETECTORS)}, or a file"
        )
    weights = torchvision.models.get_model_weights(name).DEFAULT
    state = download_torchvision_weights(
        weights,
        what=f"train.init_from: could not download {weights.name} of {name}",
        advice="train.init_from=PATH, or remove train.init_from",
    )
    eps = 0.0 if (name, weights.name) == WITHOUT_EPS else DEFAULT_EPS
    return import_torchvision(state, source=f"torchvision:{name}", norm_eps=eps)


def _eps_of(file: Path) -> float:
    """eps of the norms: a file with torchvision's own weights is recognised by its checksum, under any name."""
    name, member = WITHOUT_EPS
    expected = HASH_IN_NAME.search(torchvision.models.get_model_weights(name)[member].url)
    assert expected is not None
    return 0.0 if file_checksum(file).startswith(expected[1]) else DEFAULT_EPS
