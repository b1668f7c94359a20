"""Detect objects in images with a trained checkpoint."""

import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from retinanet.checkpoint.file import Checkpoint, read_checkpoint
from retinanet.config import Config
from retinanet.config.load import is_overridden, with_overrides
from retinanet.data.build import build_padded_shapes, eval_shorter
from retinanet.data.collate import collate
from retinanet.data.reader import PreparedSample
from retinanet.data.sampler import PlannedImage
from retinanet.data.transforms.sample import Sample
from retinanet.data.transforms.sizing import resize_as_planned
from retinanet.detection.postprocess import build_postprocess
from retinanet.errors import InputError
from retinanet.formats.images.reader import read_image
from retinanet.inference.network import inference_model, warm_up
from retinanet.inference.thresholds import above_thresholds, completed
from retinanet.model.retinanet import RetinaNet, build_model
from retinanet.runtime.device import resolve_device, resolve_precision
from retinanet.structures import Detections

log = logging.getLogger(__name__)

ImageInput = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
Weights = Literal["average", "last"]


class Predictor:
    """Runs a trained detector on images.

    Args:
        model: network with trained weights; it is moved to the device in the config and copied there for inference.
        class_names: class names, indexed by label.
        category_ids: category ids for COCO results, indexed by label.
        cfg: config that sets image sizes, postprocessing, device, precision, and whether to compile.
        thresholds: score threshold of each class, indexed by label; only detections with a score above that of their
            class are returned. None: `postprocess.min_score` alone decides.

    Raises:
        InputError: the device is not available, or `inference.compile` is set and no compiler is found.
    """

    def __init__(
        self,
        model: RetinaNet,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        cfg: Config,
        *,
        thresholds: Sequence[float] | None = None,
    ):
        self.device = resolve_device(cfg.device)
        self.dtype = resolve_precision(self.device, cfg.inference.precision)
        self.model = inference_model(model.to(self.device), dtype=self.dtype, compile=cfg.inference.compile)
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self.cfg = cfg
        self.thresholds = None if thresholds is None else tuple(thresholds)
        self._postprocess = build_postprocess(cfg.postprocess, background_logit=cfg.model.has_background_logit)
        self._padded_shapes = build_padded_shapes(cfg.data)
        self._shorter = eval_shorter(cfg.data)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        overrides: str | Sequence[str] = (),
        *,
        weights: Weights | None = None,
        use_thresholds: bool = True,
    ) -> "Predictor":
        """Load a checkpoint with its config and class names; `overrides` change the config.

        Args:
            overrides: config overrides, such as `["postprocess.min_score=0.3"]`.
            weights: the moving average of the weights, or those of the last step. None: the average if the run keeps
                one, as evaluation does.
            use_thresholds: apply the score thresholds that `retinanet eval --store-thresholds` stored in the
                checkpoint, if there are any, unless an override sets `postprocess.min_score`.

        Raises:
            InputError: the file is not a retinanet checkpoint, an override does not fit it, or it has no average.
        """
        checkpoint = read_checkpoint(path)
        cfg = with_overrides(checkpoint.config, overrides, source=f"{path} with overrides")
        model = build_model(cfg.model, len(checkpoint.class_names))
        try:
            model.load_state_dict(_chosen_weights(checkpoint, weights, path))
        except RuntimeError as error:
            raise InputError(f"{path}: the weights do not fit the model as changed by the overrides: {error}") from None
        thresholds = None
        if use_thresholds and checkpoint.thresholds and not is_overridden(overrides, "postprocess.min_score"):
            thresholds = completed(checkpoint.thresholds)
            log.info(
                "using the score threshold of each class stored in the checkpoint, %.2f to %.2f; "
                "postprocess.min_score=X sets one for all classes",
                min(thresholds),
                max(thresholds),
            )
        return cls(model, checkpoint.class_names, checkpoint.category_ids, cfg, thresholds=thresholds)

    def warm_up(self) -> None:
        """Run the network on one blank image of every padded shape that the config allows.

        With `inference.compile`, this compiles the network, which takes minutes; without this call, the first image of
        each shape has to wait for the compilation.
        """
        warm_up(self.model, [(1, *padded_shape) for padded_shape in self.padded_shapes()])

    def padded_shapes(self) -> list[tuple[int, int]]:
        """List every padded shape, (height, width), that the config allows."""
        return self._padded_shapes.all_shapes(self._shorter)

    @overload
    def __call__(self, images: ImageInput) -> Detections: ...
    @overload
    def __call__(self, images: list[ImageInput]) -> list[Detections]: ...
    def __call__(self, images: ImageInput | list[ImageInput]) -> Detections | list[Detections]:
        """Detect objects in one image or in a list of images. Boxes are in pixels of the original image.

        Args:
            images: a file path, a PIL image, an RGB uint8 array (H, W, 3), an RGB uint8 tensor (3, H, W), or a list of
                these. The EXIF orientation of files and PIL images is applied.

        Raises:
            InputError: an image cannot be read, or is not one of these types.
        """
        if isinstance(images, list):
            return list(self.predict(images))
        return next(self.predict([images]))

    def predict(self, images: Iterable[ImageInput], *, batch_size: int = 8) -> Iterator[Detections]:
        """Yield the detections of each image, in order, reading the images lazily.

        Images with the same padded shape are processed in batches of at most `batch_size`. With `inference.compile`,
        images are processed one by one, since each batch size would have to be compiled separately.

        Raises:
            InputError: an image cannot be read, or is not of a type that `__call__` accepts.
        """
        if isinstance(images, str | os.PathLike | Image.Image | np.ndarray | Tensor):
            raise InputError(
                f"predict expects several images, found one {type(images).__name__}; call the predictor on it"
            )
        if not isinstance(images, Iterable):
            raise InputError(f"predict expects several images, found {type(images).__name__}")
        return self._predict(iter(images), batch_size)

    def read_image(self, path: str | os.PathLike[str]) -> Tensor:
        """Read an image file as the network sees it: uint8 (3, H, W), as displayed, with the settings of training.

        Raises:
            InputError: the image cannot be read.
        """
        data = self.cfg.data
        return read_image(path, max_pixels=data.max_pixels, value_range=data.value_range, bands=data.bands)

    @torch.no_grad()  # not inference_mode, whose tensors cannot be modified in place afterwards
    def _predict(self, images: Iterator[ImageInput], batch_size: int) -> Iterator[Detections]:
        max_together = 1 if self.cfg.inference.compile else batch_size
        while chunk := list(itertools.islice(images, batch_size)):
            by_shape: dict[tuple[int, int], list[tuple[int, Tensor]]] = {}
            for position, image in enumerate(self._read(item) for item in chunk):
                height, width = image.shape[-2:]
                padded_shape = self._padded_shapes.padded_shape(
                    self._padded_shapes.bucket(height, width), self._shorter
                )
                by_shape.setdefault(padded_shape, []).append((position, image))
            detections: dict[int, Detections] = {}
            for padded_shape, members in by_shape.items():
                for start in range(0, len(members), max_together):
                    positions, batch = zip(*members[start : start + max_together], strict=True)
                    detections |= zip(positions, self._detect(batch, padded_shape), strict=True)
            yield from (detections[position] for position in range(len(chunk)))

    def _read(self, image: ImageInput) -> Tensor:
        if isinstance(image, str | os.PathLike):
            return self.read_image(image)
        if isinstance(image, Image.Image):
            if image.mode.startswith(("I", "F")):  # convert("RGB") would clip the values
                raise InputError(
                    f"image is a PIL image of mode {image.mode}, expected 8 bits per channel; pass the path of its "
                    "file, which is read with data.value_range"
                )
            return (
                torch.from_numpy(np.array(ImageOps.exif_transpose(image).convert("RGB"))).permute(2, 0, 1).contiguous()
            )
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise InputError(f"image is an array of {image.dtype} {image.shape}, expected RGB uint8 (H, W, 3)")
            return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous()
        if isinstance(image, Tensor):
            if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
                raise InputError(f"image is {image.dtype} {tuple(image.shape)}, expected torch.uint8 (3, H, W), RGB")
            return image
        raise InputError(
            f"image is {type(image).__name__}, expected a path, a PIL image, an RGB uint8 array (H, W, 3), or an RGB "
            "uint8 tensor (3, H, W)"
        )

    def _detect(self, images: Sequence[Tensor], padded_shape: tuple[int, int]) -> list[Detections]:
        planned = PlannedImage(0, 0, self._shorter, self._padded_shapes.longer, padded_shape, padded_shape)
        nothing = Sample(
            images[0], torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)
        )
        samples = [nothing._replace(image=image.cpu()) for image in images]
        items = [PreparedSample(planned, resize_as_planned(sample, planned), sample.size) for sample in samples]
        batch = collate(items).to(self.device)
        outputs = self.model(batch.images, batch.image_sizes)
        detections = self._postprocess(outputs, batch.image_sizes, batch.original_sizes)
        if self.thresholds is not None:
            detections = [above_thresholds(of_image, self.thresholds) for of_image in detections]
        return [replace(of_image, class_names=self.class_names) for of_image in detections]


def _chosen_weights(checkpoint: Checkpoint, weights: Weights | None, path: str | Path) -> dict[str, Tensor]:
    if weights == "average" and not checkpoint.state.get("ema"):
        raise InputError(
            f"{path}: has no average of the weights, because train.ema_decay is null; use the weights of the last step"
        )
    return checkpoint.weights(average=weights != "last")
