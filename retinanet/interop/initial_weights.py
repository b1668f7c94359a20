"""Read the weights that `train.init_from` names: a checkpoint, a state dict, or a detector of another framework."""

from pathlib import Path

from retinanet.checkpoint.header import is_checkpoint
from retinanet.errors import InputError
from retinanet.interop.detector import detector_in, is_named, read_detector, weight_file_in
from retinanet.interop.imported import ImportedDetector
from retinanet.interop.published import read_model
from retinanet.interop.published_config import is_published
from retinanet.interop.state_dicts import is_ours
from retinanet.interop.weight_files import read_weight_file
from retinanet.model.finetune import TrainedWeights


def read_initial_weights(source: str) -> TrainedWeights:
    """Read the weights of a trained detector.

    Args:
        source: a checkpoint, a published folder, a file with a state dict of our `RetinaNet`, or any source
            that `read_detector` accepts.

    Raises:
        InputError: the file cannot be read or contains no detector, or a download failed.
    """
    if is_named(source):
        return _of_imported(read_detector(source), source)
    path = weight_file_in(Path(source))
    if not path.exists():
        raise InputError(f"train.init_from: {source} does not exist; set it to a checkpoint or a file of weights")
    if is_checkpoint(path) or is_published(Path(source)):
        checkpoint = read_model(source)
        if custom := checkpoint.config.custom.model:
            raise InputError(
                f"{source}: was trained with a custom model, {custom}, whose weights fit only that model; pass it in "
                "Python: retinanet.train(..., model=...)"
            )
        return TrainedWeights(
            source=source,
            state=checkpoint.weights(),
            model=checkpoint.config.model,
            class_names=checkpoint.class_names,
        )
    file = read_weight_file(path)
    if is_ours(file.state):
        return TrainedWeights(source=source, state=file.state, model=None, class_names=None)
    return _of_imported(detector_in(file), source)


def _of_imported(detector: ImportedDetector, source: str) -> TrainedWeights:
    return TrainedWeights(
        source=source,
        state=detector.state,
        model=detector.model,
        class_names=detector.class_names if detector.are_classes_named else None,
        has_background_slot=detector.model.anchors.rounding == "torchvision",
    )
