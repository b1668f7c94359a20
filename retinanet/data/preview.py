"""Preview training data: show given images as the network will see them."""

from collections.abc import Sequence

from torchvision.transforms import v2

from retinanet.config import Config
from retinanet.data.build import build_padded_shapes, build_train_reader
from retinanet.data.sampler import PlannedImage
from retinanet.data.transforms.sample import Sample
from retinanet.formats.dataset import Dataset


def augmented_samples(
    cfg: Config, data: Dataset, planned: Sequence[PlannedImage], *, extra_transforms: Sequence[v2.Transform] = ()
) -> list[Sample]:
    """Read and transform images exactly as training does, without padding.

    Args:
        data: the training set.
        planned: images from the training sampler, or from `plan_images`.
        extra_transforms: as in `train`.

    Returns: one sample per planned image, with boxes in its pixels; an unreadable image is replaced, as in training.

    Raises:
        InputError: an image can be neither read nor replaced.
    """
    reader = build_train_reader(cfg, data, extra_transforms)
    return [reader.read_or_replace(image).sample for image in planned]


def plan_images(cfg: Config, data: Dataset, indices: Sequence[int], *, epoch: int = 0) -> list[PlannedImage]:
    """Plan given images at the largest training size, each as if in a batch of its own aspect-ratio bucket."""
    padded_shapes, shorter = build_padded_shapes(cfg.data), max(cfg.data.resize.shorter)
    planned = []
    for index in indices:
        height, width = data.sizes[index].tolist()
        shape = padded_shapes.padded_shape(padded_shapes.bucket(height, width), shorter)
        planned.append(PlannedImage(index, epoch, shorter, padded_shapes.longer, shape, shape))
    return planned
