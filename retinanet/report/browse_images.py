"""The images of a collection as JPEG files of a limited size, encoded on request."""

import base64
import io
from collections import OrderedDict
from threading import Lock

from torchvision.transforms.v2 import functional as F

from retinanet.data.reader import SampleReader
from retinanet.visualization.draw import as_rgb

THUMBNAIL_SIDE, IMAGE_SIDE = 400, 1600  # pixels of the longer side
QUALITY = 80
CACHE_BYTES = 64_000_000


class ImageFiles:
    """Reads and encodes images, and caches the most recently used ones. Thread-safe.

    Args:
        max_bytes: limit of the cache.
    """

    def __init__(self, reader: SampleReader, *, max_bytes: int = CACHE_BYTES):
        self._reader = reader
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def __len__(self) -> int:
        """Number of images."""
        return len(self._reader.dataset)

    def jpeg(self, index: int, max_side: int) -> bytes:
        """Encode an image in the orientation in which it was annotated, shrunk to `max_side` pixels if it is larger.

        Raises:
            InputError: the image cannot be read.
        """
        key = index, max_side
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        encoded = self._encode(index, max_side)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = encoded
                self._bytes += len(encoded)
            while self._bytes > self._max_bytes:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return encoded

    def data_url(self, index: int) -> str:
        """The thumbnail of an image as a data URL.

        Raises:
            InputError: the image cannot be read.
        """
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg(index, THUMBNAIL_SIDE)).decode()

    def _encode(self, index: int, max_side: int) -> bytes:
        image = self._reader.read(index).image
        height, width = image.shape[-2:]
        factor = max_side / max(height, width)
        if factor < 1:
            image = F.resize(image, [max(1, round(factor * height)), max(1, round(factor * width))])
        file = io.BytesIO()
        F.to_pil_image(as_rgb(image)).save(file, "JPEG", quality=QUALITY)
        return file.getvalue()
