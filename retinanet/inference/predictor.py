"""Detect objects in images with a trained checkpoint."""

import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast, overload

import numpy as np
from PIL import Image
from torch import Tensor, nn

from retinanet.checkpoint.file import Checkpoint
from retinanet.config import Config
from retinanet.config.custom import check_part
from retinanet.config.load import is_overridden, with_overrides
from retinanet.data.image_settings import build_image_settings
from retinanet.errors import InputError
from retinanet.formats.images.reader import open_bands
from retinanet.formats.images.window_reader import open_windows
from retinanet.formats.images.windows import DecodedImage, WindowSource
from retinanet.formats.videos.reader import VideoFrame
from retinanet.inference.image_detector import Progress, build_image_detector
from retinanet.inference.image_input import ImageInput, as_pixels
from retinanet.inference.network import inference_model, warm_up
from retinanet.inference.thresholds import above_thresholds, completed
from retinanet.interop.pretrained import read_pretrained
from retinanet.interop.published import read_model
from retinanet.interop.published_config import is_published
from retinanet.model.detector import Detector, load_weights, model_name, with_activation
from retinanet.model.retinanet import build_model, check_padded_shapes, is_retinanet
from retinanet.runtime.device import resolve_device, resolve_precision
from retinanet.structures import Detections

log = logging.getLogger(__name__)

Weights = Literal["average", "last"]


class Predictor:
    """Runs a trained detector on images.

    Args:
        model: network with trained weights, a `RetinaNet` or another `Detector`; it is moved to the device in the
            config and copied there for inference.
        class_names: class names, indexed by label.
        category_ids: category ids for COCO results, indexed by label.
        cfg: config that sets image sizes, postprocessing, device, precision, and whether to compile.
        thresholds: score threshold of each class, indexed by label; only detections with a score above that of their
            class are returned. None: `postprocess.min_score` alone decides.

    Raises:
        InputError: the device is not available, `inference.compile` is set and no compiler is found, or the backbone
            does not accept the padded shapes.
    """

    def __init__(
        self,
        model: nn.Module,
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
        self._detector = build_image_detector(cfg, self.model, device=self.device)
        if is_retinanet(model):
            check_padded_shapes(model.backbone, self.padded_shapes(), name=cfg.model.backbone.name)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        overrides: str | Sequence[str] = (),
        *,
        model: nn.Module | None = None,
        weights: Weights | None = None,
        use_thresholds: bool = True,
    ) -> "Predictor":
        """Load a checkpoint with its config and class names; `overrides` change the config.

        Args:
            path: a checkpoint file, or a published folder.
            overrides: config overrides, such as `["postprocess.min_score=0.3"]`.
            model: the custom model that the checkpoint was trained with, which receives its weights; None: the model
                in the config.
            weights: the moving average of the weights, or those of the last step. None: the average if the run keeps
                one, as evaluation does.
            use_thresholds: apply the score thresholds that `retinanet eval --store-thresholds` stored in the
                checkpoint, if there are any, unless an override sets `postprocess.min_score`.

        Raises:
            InputError: the file is not a retinanet checkpoint, an override does not fit it, it has no average, or it
                was trained with a custom model, which was not passed or does not fit.
        """
        checkpoint = read_model(path)
        if weights is not None and is_published(Path(path)):
            raise InputError(f"{path}: found weights={weights}, but a published folder has only one set; omit weights")
        return cls._of(checkpoint, path, overrides, model=model, weights=weights, use_thresholds=use_thresholds)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        overrides: str | Sequence[str] = (),
        *,
        revision: str | None = None,
        use_thresholds: bool = True,
    ) -> "Predictor":
        """Load a detector trained by others. No code from it is executed.

        Args:
            source: a published folder, the id of one on the Hugging Face Hub, such as `my-lab/cells`, or a detector of
                another framework, such as `torchvision:retinanet_resnet50_fpn_v2` or the path of a file of weights. An
                existing path takes precedence over an id.
            overrides, use_thresholds: see `from_checkpoint`.
            revision: branch, tag or commit on the hub; None: the default branch.

        Raises:
            InputError: a file is damaged, the download failed, or an override does not fit the model.
        """
        checkpoint = read_pretrained(source, revision=revision)
        return cls._of(checkpoint, source, overrides, model=None, weights=None, use_thresholds=use_thresholds)

    @classmethod
    def _of(
        cls,
        checkpoint: Checkpoint,
        path: str | Path,
        overrides: str | Sequence[str],
        *,
        model: nn.Module | None,
        weights: Weights | None,
        use_thresholds: bool,
    ) -> "Predictor":
        """Build a predictor from a checkpoint; `path` names it in messages."""
        cfg = with_overrides(checkpoint.config, overrides, source=f"{path} with overrides")
        check_part(
            "model",
            cfg.custom.model,
            None if model is None else model_name(model),
            source=str(path),
            how=f"retinanet.Predictor.from_checkpoint({str(path)!r}, model=...)",
        )
        state = _chosen_weights(checkpoint, weights, path)
        if model is None:
            model = build_model(cfg.model, len(checkpoint.class_names))
            try:
                model.load_state_dict(state)
            except RuntimeError as error:
                model_is = "as changed by the overrides" if overrides else "in its config"
                raise InputError(f"{path}: the weights do not fit the model {model_is}: {error}") from None
        else:
            if (name := model_name(model)) != cfg.custom.model:
                log.warning("%s: was trained with the model %s, and is loaded into %s", path, cfg.custom.model, name)
            load_weights(model, state, source=str(path))
            cfg = with_activation(cfg, cast(Detector, model), len(checkpoint.class_names))
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
        warm_up(self.model, [(1, self.cfg.model.in_channels, *shape) for shape in self.padded_shapes()])

    def padded_shapes(self) -> list[tuple[int, int]]:
        """List every padded shape, (height, width), that the config allows."""
        return self._detector.views.all_shapes()

    @overload
    def __call__(self, images: ImageInput) -> Detections: ...
    @overload
    def __call__(self, images: list[ImageInput]) -> list[Detections]: ...
    def __call__(self, images: ImageInput | list[ImageInput]) -> Detections | list[Detections]:
        """Detect objects in one image or in a list of images. Boxes are in pixels of the original image.

        Args:
            images: a file path, the content of a file, a PIL image, a uint8 array (H, W, C), a uint8 tensor (C, H, W),
                a frame of `open_video`, or a list of these, with C = `model.in_channels`: RGB if it is 3. With
                `data.band_files`, a path is that of the first file of an image. PIL images and frames are RGB or grey,
                so C is 3 or 1. The EXIF orientation of files and PIL images is applied.

        Raises:
            InputError: an image cannot be read, or is not one of these types.
        """
        if isinstance(images, list):
            return list(self.predict(images))
        return next(self.predict([images]))

    def predict(self, images: Iterable[ImageInput], *, batch_size: int = 8) -> Iterator[Detections]:
        """Yield the detections of each image or frame of `open_video`, in order, reading the images lazily.

        Images, or tiles, with the same padded shape are processed in batches of at most `batch_size`. With
        `inference.compile`, they are processed one by one, since each batch size would have to be compiled separately.

        Raises:
            InputError: an image cannot be read, or is not of a type that `__call__` accepts; `batch_size` is below 1.
        """
        if isinstance(images, str | os.PathLike | bytes | Image.Image | np.ndarray | Tensor | VideoFrame):
            raise InputError(
                f"predict expects several images, found one {type(images).__name__}; pass a list, or call the "
                "predictor on the image"
            )
        if not isinstance(images, Iterable):
            raise InputError(f"predict expects several images, found {type(images).__name__}")
        _check_batch_size(batch_size)
        return self._predict(iter(images), batch_size)

    def detect_in(self, image: WindowSource, *, batch_size: int = 8, progress: Progress | None = None) -> Detections:
        """Detect objects in an image that is read window by window, such as one that does not fit in memory.

        Args:
            image: a source of windows, uint8 (C, H, W) with C = `model.in_channels`; see `open_windows`.
            batch_size: maximum number of tiles, or other views with the same padded shape, that are processed together.
            progress: called after each tile, or copy of it, with the numbers of those that are finished and of all.

        Raises:
            InputError: a window cannot be read, or `batch_size` is below 1.
        """
        _check_batch_size(batch_size)
        (detections,) = self._detect([image], batch_size, progress)
        return detections

    def open_windows(self, image: ImageInput) -> AbstractContextManager[WindowSource]:
        """Open an image to read windows of it; with `inference.tile.size`, a large TIFF file is not decoded at once.

        Raises:
            InputError: the image cannot be read, or is not of a type that `__call__` accepts.
        """
        if not isinstance(image, str | os.PathLike | bytes):
            return nullcontext(DecodedImage(as_pixels(image, self.cfg.model.in_channels)))
        if self.cfg.inference.tile.size is None:
            return nullcontext(DecodedImage(self.read_image(image)))
        return open_windows(image, build_image_settings(self.cfg))

    def read_image(self, path: str | os.PathLike[str] | bytes) -> Tensor:
        """Read an image file as the network sees it: uint8 (C, H, W), as displayed, with the settings of training.

        Raises:
            InputError: the image cannot be read.
        """
        with open_bands(path, build_image_settings(self.cfg)) as opened:
            return opened.decode().contiguous()

    def _predict(self, images: Iterator[ImageInput], batch_size: int) -> Iterator[Detections]:
        while chunk := list(itertools.islice(images, batch_size)):
            found: dict[int, Detections] = {}
            decoded: dict[int, DecodedImage] = {}
            for position, item in enumerate(chunk):
                with self.open_windows(item) as image:
                    if isinstance(image, DecodedImage):
                        decoded[position] = image
                    else:  # one at a time, because each keeps some decoded pixels
                        found[position] = self.detect_in(image, batch_size=batch_size)
            found |= zip(decoded, self._detect([*decoded.values()], batch_size, None), strict=True)
            yield from (found[position] for position in range(len(chunk)))

    def _detect(self, images: list[WindowSource], batch_size: int, progress: Progress | None) -> list[Detections]:
        found = self._detector(images, batch_size=batch_size, progress=progress)
        if self.thresholds is not None:
            found = [above_thresholds(detections, self.thresholds) for detections in found]
        return [replace(detections, class_names=self.class_names) for detections in found]


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}, expected at least 1")


def _chosen_weights(checkpoint: Checkpoint, weights: Weights | None, path: str | Path) -> dict[str, Tensor]:
    if weights == "average" and not checkpoint.state.get("ema"):
        raise InputError(
            f"{path}: has no average of the weights, because train.ema_decay is null; use the weights of the last step"
        )
    return checkpoint.weights(average=weights != "last")
