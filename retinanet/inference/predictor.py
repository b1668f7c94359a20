"""A checkpoint and images in, detections out."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from retinanet.checkpoint.file import read_checkpoint
from retinanet.config import Config
from retinanet.config.load import with_overrides
from retinanet.data.build import build_padded_shapes, eval_shorter
from retinanet.data.collate import collate
from retinanet.data.reader import PreparedSample
from retinanet.data.sampler import PlannedImage
from retinanet.data.transforms import Resize, Sample
from retinanet.detection.postprocess import build_postprocess
from retinanet.errors import InputError
from retinanet.formats.image import read_image
from retinanet.inference.network import inference_model, warm_up
from retinanet.model.retinanet import RetinaNet, build_model
from retinanet.runtime.device import resolve_device, resolve_precision
from retinanet.structures import Detections


class Predictor:
    """A detector ready to use.

    Args:
        model: with trained weights; moved to the device of the config, and copied there for prediction.
        class_names: of its labels.
        category_ids: of its labels, in COCO results.
        cfg: how images are resized, what is kept of the predictions, device, precision, and whether to compile.

    Raises:
        InputError: the device is not there, or `inference.compile` finds no compiler.
    """

    def __init__(self, model: RetinaNet, class_names: Sequence[str], category_ids: Sequence[int], cfg: Config):
        self.device = resolve_device(cfg.device)
        self.dtype = resolve_precision(self.device, cfg.inference.precision)
        self.model = inference_model(model.to(self.device), dtype=self.dtype, compile=cfg.inference.compile)
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self.cfg = cfg
        self._postprocess = build_postprocess(cfg.postprocess, background_logit=cfg.model.has_background_logit)
        self._padded_shapes = build_padded_shapes(cfg.data)
        self._shorter = eval_shorter(cfg.data)

    @classmethod
    def from_checkpoint(cls, path: str | Path, overrides: Sequence[str] = ()) -> "Predictor":
        """A checkpoint carries its config and class names; `overrides` change them, as `postprocess.min_score=0.3`.

        Raises:
            InputError: no checkpoint of ours, or an override that does not fit.
        """
        checkpoint = read_checkpoint(path)
        cfg = with_overrides(checkpoint.config, overrides, source=f"{path} with overrides")
        model = build_model(cfg.model, len(checkpoint.class_names))
        try:
            model.load_state_dict(checkpoint.weights())
        except RuntimeError as error:
            raise InputError(f"{path}: its weights do not fit the model of the overrides: {error}") from None
        return cls(model, checkpoint.class_names, checkpoint.category_ids, cfg)

    def warm_up(self) -> None:
        """Run every padded shape that the config allows once, on one empty image.

        With `inference.compile`, this is when the network is compiled: minutes, which otherwise the first image of
        each shape waits for.
        """
        warm_up(self.model, [(1, *padded_shape) for padded_shape in self._padded_shapes.all_shapes(self._shorter)])

    def __call__(self, image: str | Path | Tensor) -> Detections:
        """Objects in one image: a file, or uint8 RGB of shape (3, H, W). Boxes are in pixels of the image."""
        return next(self.predict([image]))

    @torch.inference_mode()
    def predict(self, images: Iterable[str | Path | Tensor], *, batch_size: int = 8) -> Iterator[Detections]:
        """Detections of each image, in order.

        Images of one shape go through the network together, at most `batch_size`; with `inference.compile` one by
        one, as every number of them would be compiled by itself.
        """
        images = iter(images)
        together = 1 if self.cfg.inference.compile else batch_size
        while chunk := list(itertools.islice(images, batch_size)):
            by_shape: dict[tuple[int, int], list[tuple[int, Tensor]]] = {}
            for position, image in enumerate(self._read(item) for item in chunk):
                padded_shape = self._padded_shapes.padded_shape(
                    self._padded_shapes.bucket(*image.shape[-2:]), self._shorter
                )
                by_shape.setdefault(padded_shape, []).append((position, image))
            found: dict[int, Detections] = {}
            for padded_shape, members in by_shape.items():
                for start in range(0, len(members), together):
                    positions, batch = zip(*members[start : start + together], strict=True)
                    found |= zip(positions, self._detect(batch, padded_shape), strict=True)
            yield from (found[position] for position in range(len(chunk)))

    def _read(self, image: str | Path | Tensor) -> Tensor:
        if not isinstance(image, Tensor):
            return read_image(image, max_pixels=self.cfg.data.max_pixels)
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise InputError(f"image is {image.dtype} {tuple(image.shape)}, expected torch.uint8 (3, H, W), RGB")
        return image

    def _detect(self, images: Sequence[Tensor], padded_shape: tuple[int, int]) -> list[Detections]:
        planned = PlannedImage(0, 0, self._shorter, self._padded_shapes.longer, padded_shape)
        nothing = Sample(
            images[0], torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)
        )
        items = [
            PreparedSample(planned, Resize()(nothing._replace(image=image.cpu()), planned), tuple(image.shape[-2:]))
            for image in images
        ]
        batch = collate(items).to(self.device)
        predictions = self.model(batch.images, batch.image_sizes)
        return self._postprocess(predictions, batch.image_sizes, batch.original_sizes)
