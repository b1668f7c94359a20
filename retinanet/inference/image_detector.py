"""Detect the objects in an image: run the network on its views, and merge the detections."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from retinanet.config import Config
from retinanet.data.collate import collate
from retinanet.data.padded_shapes import resized
from retinanet.data.reader import PreparedSample
from retinanet.data.transforms.sample import Sample
from retinanet.data.transforms.sizing import resize_as_planned
from retinanet.detection.merge import Merge, ViewDetections, build_merge
from retinanet.detection.postprocess import Postprocess, build_postprocess
from retinanet.formats.images.reduced import read_reduced
from retinanet.formats.images.windows import DecodedImage, Window, WindowSource
from retinanet.inference.views import View, Views, build_views
from retinanet.structures import Detections

Progress = Callable[[int, int], None]  # called with the numbers of finished parts and of all parts

WHOLE_PIXELS = 1 << 24  # larger windows of a file are reduced while they are read


class ImageDetector:
    """Detects objects in images of any size, with as many views of each as the config asks for.

    Args:
        network: called as `network(images, image_sizes)`; returns `HeadOutputs`.
        postprocess: selects the detections in each view.
        views: lists the views of an image.
        merge: merges the detections of an image with several views.
        max_detections: maximum number of detections in an image without tiles.
        device: the device of the network.
        one_by_one: whether views are never batched, since a compiled network is compiled again for each batch size.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        postprocess: Postprocess,
        views: Views,
        merge: Merge,
        max_detections: int,
        device: torch.device,
        one_by_one: bool = False,
    ):
        self.network = network
        self.postprocess = postprocess
        self.views = views
        self.merge = merge
        self.max_detections = max_detections
        self.device = device
        self.one_by_one = one_by_one

    @torch.no_grad()  # not inference_mode, whose tensors cannot be modified in place afterwards
    def __call__(
        self, images: Sequence[WindowSource], *, batch_size: int, progress: Progress | None = None
    ) -> list[Detections]:
        """Detect objects in images, with boxes in pixels of each image.

        Views with the same padded shape are processed in batches of at most `batch_size`, or one by one. Only the
        windows of one batch are read at a time, so an image does not have to fit in memory if its source reads windows
        from a file.

        Args:
            progress: called after each view.
        """
        if self.one_by_one:
            batch_size = 1
        views = [self.views.of(image.size) for image in images]
        by_shape: dict[tuple[int, int], list[tuple[int, int]]] = {}  # positions of the image and of its view
        for position, views_of_image in enumerate(views):
            for number, view in enumerate(views_of_image):
                by_shape.setdefault(view.planned.padded_shape, []).append((position, number))
        found: list[dict[int, Detections]] = [{} for _ in images]
        finished, total = 0, sum(map(len, views))
        for members in by_shape.values():
            for start in range(0, len(members), batch_size):
                batch = members[start : start + batch_size]
                chosen = [(images[position], views[position][number]) for position, number in batch]
                for (position, number), detections in zip(batch, self._detect(chosen), strict=True):
                    found[position][number] = detections
                    finished += 1
                    if progress is not None:
                        progress(finished, total)
        return [
            self._merged(image.size, views_of_image, [found_in[number] for number in range(len(views_of_image))])
            for image, views_of_image, found_in in zip(images, views, found, strict=True)
        ]

    def _detect(self, batch: Sequence[tuple[WindowSource, View]]) -> list[Detections]:
        """Detect objects in views with the same padded shape; boxes are in pixels of the whole image."""
        pixels = _read(batch)
        nothing = Sample(
            pixels[0], torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)
        )
        items = []
        for image, (_, view) in zip(pixels, batch, strict=True):
            sample = nothing._replace(image=image.flip(-1) if view.is_flipped else image)
            items.append(PreparedSample(view.planned, resize_as_planned(sample, view.planned), view.window.size))
        prepared = collate(items).to(self.device)
        outputs = self.network(prepared.images, prepared.image_sizes)
        found = self.postprocess(outputs, prepared.image_sizes, prepared.original_sizes)
        return [
            Detections(view.boxes_in_image(detections.boxes), detections.scores, detections.labels)
            for (_, view), detections in zip(batch, found, strict=True)
        ]

    def _merged(self, size: tuple[int, int], views: Sequence[View], found: Sequence[Detections]) -> Detections:
        if len(views) == 1:
            return found[0]
        pairs = zip(views, found, strict=True)
        merged = self.merge([ViewDetections(view.window, detections) for view, detections in pairs], size)
        has_tiles = len({view.window for view in views}) > 1
        return merged if has_tiles else merged[: self.max_detections]


def _read(batch: Sequence[tuple[WindowSource, View]]) -> list[Tensor]:
    """Read the window of each view, (C, H, W) uint8 on the CPU; views of the same window share their pixels."""
    pixels: list[Tensor] = []
    last: tuple[WindowSource, Window, tuple[int, int]] | None = None
    for image, view in batch:
        size = _size_to_read(image, view)
        is_same = last is not None and last[0] is image and last[1:] == (view.window, size)
        pixels.append(pixels[-1] if is_same else read_reduced(image, size, view.window).cpu())
        last = image, view.window, size
    return pixels


def _size_to_read(image: WindowSource, view: View) -> tuple[int, int]:
    """Return the height and width at which the window of a view is read.

    A large window of a file is read at twice the size that the network sees, so that it fits in memory and the usual
    resizing still has enough pixels to interpolate.
    """
    height, width = view.window.size
    if isinstance(image, DecodedImage) or height * width <= WHOLE_PIXELS:
        return height, width
    needed = resized(height, width, view.planned.shorter, view.planned.longer)
    return min(height, 2 * needed[0]), min(width, 2 * needed[1])


def build_image_detector(cfg: Config, network: nn.Module, *, device: torch.device) -> ImageDetector:
    """Build the detector that a config describes, for a network that is already on its device."""
    return ImageDetector(
        network,
        postprocess=build_postprocess(cfg.postprocess, background_logit=cfg.model.has_background_logit),
        views=build_views(cfg),
        merge=build_merge(cfg),
        max_detections=cfg.postprocess.max_detections,
        device=device,
        one_by_one=cfg.inference.compile,
    )
