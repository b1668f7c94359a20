"""Use a dataset that was passed in Python for training or validation."""

from retinanet.config import Config
from retinanet.config.custom import part_name
from retinanet.data.federated import check_background
from retinanet.errors import InputError
from retinanet.formats.checks.plausibility import check_objects
from retinanet.formats.custom import CustomDataset, as_dataset
from retinanet.formats.dataset import Dataset
from retinanet.formats.findings import report


def use_custom_data(cfg: Config, custom: CustomDataset | Dataset, class_names: tuple[str, ...] | None) -> Dataset:
    """Convert and check a dataset that was passed in Python.

    Args:
        class_names: the classes of the training set; None if this is the training set.

    Raises:
        InputError: an image is invalid, there are no objects to train on, or the classes or a key of `data` do not fit.
    """
    name = part_name(custom)
    if class_names is None and (cfg.data.classes or not cfg.data.keep_empty or cfg.data.val_fraction):
        raise InputError(
            f"data.classes, data.keep_empty and data.val_fraction have no effect on {name}, which is custom; remove "
            "them, and select classes and images in the dataset"
        )
    data = as_dataset(custom)
    if class_names is not None and data.class_names != class_names:
        raise InputError(f"{name}: has classes {list(data.class_names)[:10]}, expected {list(class_names)[:10]}")
    if class_names is None and cfg.model.num_classes not in (None, len(data.class_names)):
        raise InputError(
            f"model.num_classes: is {cfg.model.num_classes}, but {name} has {len(data.class_names)} classes"
        )
    report(check_objects(data, where=name, training=class_names is None))
    if data.federated is not None:
        check_background(cfg, where=name)
    return data
