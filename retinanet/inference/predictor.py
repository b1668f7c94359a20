"""A checkpoint and pictures in, detections out."""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from retinanet.checkpoint import read_checkpoint
from retinanet.config import Config
from retinanet.config_file import config_from_values, with_overrides
from retinanet.data.build import build_canvases, eval_shorter
from retinanet.data.image import read_image
from retinanet.data.loader import collate
from retinanet.data.plan import Sample
from retinanet.data.transforms import Example, Resize
from retinanet.detection.postprocess import Postprocess
from retinanet.device import autocast, resolve_device, resolve_precision
from retinanet.errors import InputError
from retinanet.model.retinanet import RetinaNet, build_model
from retinanet.structures import Detections


class Predictor:
    """A detector ready to use.

    Args:
        model: with trained weights; put into evaluation mode and moved to the device of the config.
        class_names: of its labels.
        category_ids: of its labels, in COCO results.
        cfg: how pictures are resized, what is kept of the predictions, device and precision.
    """

    def __init__(self, model: RetinaNet, class_names: Sequence[str], category_ids: Sequence[int], cfg: Config):
        self.device = resolve_device(cfg.device)
        self.dtype = resolve_precision(self.device, cfg.train.precision)
        self.model = model.to(self.device).eval()
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self.cfg = cfg
        self._postprocess = Postprocess(**cfg.postprocess.model_dump())
        self._canvases = build_canvases(cfg.data)
        self._shorter = eval_shorter(cfg.data)

    @classmethod
    def from_checkpoint(cls, path: str | Path, overrides: Sequence[str] = ()) -> "Predictor":
        """A checkpoint carries its config and class names; `overrides` change them, as `postprocess.min_score=0.3`.

        Raises:
            InputError: no checkpoint of ours, or an override that does not fit.
        """
        content = read_checkpoint(path)
        cfg = with_overrides(checkpoint_config(content, path), overrides, source=f"{path} with overrides")
        model = build_model(cfg.model, len(content["class_names"]))
        try:
            model.load_state_dict(content["model"])
        except RuntimeError as error:
            raise InputError(f"{path}: its weights do not fit the model of the overrides: {error}") from None
        return cls(model, content["class_names"], content["category_ids"], cfg)

    def __call__(self, image: str | Path | Tensor) -> Detections:
        """Objects in one picture: a file, or uint8 RGB of shape (3, H, W). Boxes are in pixels of the picture."""
        return next(self.predict([image]))

    @torch.inference_mode()
    def predict(self, images: Iterable[str | Path | Tensor], *, batch_size: int = 8) -> Iterator[Detections]:
        """Detections of each picture, in order. Pictures of one shape go through the network together."""
        images = iter(images)
        while chunk := list(itertools.islice(images, batch_size)):
            by_canvas: dict[tuple[int, int], list[tuple[int, Tensor]]] = {}
            for position, image in enumerate(self._read(item) for item in chunk):
                canvas = self._canvases.canvas(self._canvases.group(*image.shape[-2:]), self._shorter)
                by_canvas.setdefault(canvas, []).append((position, image))
            found: dict[int, Detections] = {}
            for canvas, members in by_canvas.items():
                results = self._detect([image for _, image in members], canvas)
                found |= zip((position for position, _ in members), results, strict=True)
            yield from (found[position] for position in range(len(chunk)))

    def _read(self, image: str | Path | Tensor) -> Tensor:
        if not isinstance(image, Tensor):
            return read_image(image, max_pixels=self.cfg.data.max_pixels)
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise InputError(f"picture is {image.dtype} {tuple(image.shape)}, expected torch.uint8 (3, H, W), RGB")
        return image

    def _detect(self, images: list[Tensor], canvas: tuple[int, int]) -> list[Detections]:
        sample = Sample(0, 0, self._shorter, self._canvases.longer, canvas)
        nothing = Example(
            images[0], torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)
        )
        items = [
            (sample, Resize()(nothing._replace(image=image.cpu()), sample), tuple(image.shape[-2:])) for image in images
        ]
        batch = collate(items).to(self.device)
        with autocast(self.device, self.dtype):
            predictions = self.model(batch.images, batch.image_sizes)
        found = self._postprocess(predictions, batch.image_sizes, batch.original_sizes)
        return [Detections(*(tensor.cpu() for tensor in detections)) for detections in found]


def checkpoint_config(content: dict, path: str | Path) -> Config:
    """The config that a checkpoint carries."""
    return config_from_values(json.loads(content["config"]), source=str(path))
