"""Adapter for torchvision transforms, which can be passed from Python."""

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from retinanet.data.sampler import PlannedImage
from retinanet.data.transforms.partners import Partners
from retinanet.data.transforms.sample import Sample, clip, select


class TorchvisionTransform:
    """Adapter for any torchvision.transforms.v2 transform that returns a uint8 image with as many channels.

    The transform is called with a dict of `image`, `boxes` and `labels`. If it removes boxes, it must remove the same
    entries of `labels`, as `v2.SanitizeBoundingBoxes` does; crowd flags follow. Boxes that it moves out of the image or
    makes empty, as `v2.RandomIoUCrop` does, are removed afterwards.

    Args:
        transform: the transform, which must draw random numbers from torch's global generator, as torchvision does.

    Raises:
        ValueError: when called, if the transform returns an image of another type, or boxes and labels of different
            number.
    """

    def __init__(self, transform: v2.Transform):
        self.transform = transform

    def __call__(self, sample: Sample, planned: PlannedImage, partners: Partners) -> Sample:
        boxes = tv_tensors.BoundingBoxes(sample.boxes, format="XYXY", canvas_size=sample.size)
        # Row numbers instead of labels show which boxes remain.
        rows = torch.arange(len(boxes))
        result = self.transform({"image": tv_tensors.Image(sample.image), "boxes": boxes, "labels": rows})
        image: Tensor = result["image"].as_subclass(Tensor)
        channels = sample.image.shape[0]
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != channels:
            raise ValueError(
                f"{self.transform}: returned an image of {image.dtype} {tuple(image.shape)}, expected torch.uint8 "
                f"({channels}, H, W); leave conversion and normalisation to the network"
            )
        if len(result["boxes"]) != len(result["labels"]):
            raise ValueError(
                f"{self.transform}: returned {len(result['boxes'])} boxes and {len(result['labels'])} labels; follow "
                "it with v2.SanitizeBoundingBoxes, which removes both"
            )
        moved = F.convert_bounding_box_format(result["boxes"], new_format=tv_tensors.BoundingBoxFormat.XYXY)
        left = select(sample, result["labels"])
        return clip(left._replace(image=image, boxes=moved.as_subclass(Tensor)))
