"""Set Pillow's global size limit temporarily."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

_lock = threading.RLock()


@contextmanager
def pillow_limit(max_pixels: int) -> Iterator[None]:
    """Make Pillow check `max_pixels`, instead of its default limit, before it allocates memory.

    Threads take turns, and the limit is restored for other users of Pillow.
    """
    with _lock:
        own_limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow warns above this, and raises above twice this
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = own_limit
