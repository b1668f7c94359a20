"""The size limit of Pillow, which is a global variable."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

_lock = threading.RLock()


@contextmanager
def pillow_limit(max_pixels: int) -> Iterator[None]:
    """Make Pillow check `max_pixels` instead of its own limit, before it allocates memory.

    Threads take turns, and the limit is restored for other users of Pillow.
    """
    with _lock:
        own_limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow warns beyond this, and raises beyond twice this
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = own_limit
