"""A detector as a model of SAHI, which finds small objects in large images by detecting them in slices."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retinanet.errors import InputError
from retinanet.inference.predictor import Predictor
from retinanet.structures import Detections

try:
    from sahi.models.base import DetectionModel
    from sahi.prediction import ObjectPrediction
    from sahi.utils.compatibility import fix_full_shape_list, fix_shift_amount_list
except ModuleNotFoundError as error:
    raise ImportError("SahiModel needs the package sahi: pip install sahi") from error

log = logging.getLogger(__name__)


class SahiModel(DetectionModel):
    """A detection model for `sahi.predict.get_prediction` and `get_sliced_prediction`.

    Category ids are those of the training annotations, so that SAHI's COCO results can be scored with them.

    Args:
        path: a checkpoint file, or a published folder.
        overrides: config overrides, such as `["inference.precision=bf16"]`.
        confidence_threshold: score above which objects are returned, 0..1; thresholds stored in the checkpoint are not
            used. There are no detections below `postprocess.min_score`, which an override can change.
        device: such as "cpu" or "cuda:1"; None: `device` in the config.

    Raises:
        InputError: the threshold is not from 0 to 1, the checkpoint cannot be read, or an override does not fit it.
    """

    def __init__(
        self,
        path: str | Path,
        overrides: str | Sequence[str] = (),
        *,
        confidence_threshold: float = 0.3,
        device: str | None = None,
    ):
        if not 0 <= confidence_threshold <= 1:
            raise InputError(f"confidence_threshold: found {confidence_threshold}, expected a number from 0 to 1")
        self._overrides = [overrides] if isinstance(overrides, str) else list(overrides)
        super().__init__(model_path=str(path), confidence_threshold=confidence_threshold, device=device)

    def set_device(self, device: str | None = None) -> None:
        """Choose the device on which `load_model` loads the detector; None: `device` in the config."""
        # SAHI's own method sets CUDA_VISIBLE_DEVICES, which hides the other GPUs from the whole process.
        self.device = device

    def load_model(self) -> None:
        """Load the detector from its path.

        Raises:
            InputError: the checkpoint cannot be read, or an override does not fit it.
        """
        device = [] if self.device is None else [f"device={self.device}"]
        predictor = Predictor.from_checkpoint(self.model_path, [*self._overrides, *device], use_thresholds=False)
        limit = predictor.cfg.postprocess.min_score
        if self.confidence_threshold < limit:
            log.warning(
                "postprocess.min_score is %g, so there are no detections with a score from %g to %g; to get them, add "
                "the override postprocess.min_score=%g",
                *(limit, self.confidence_threshold, limit, self.confidence_threshold),
            )
        self.set_model(predictor)

    def set_model(self, model: Predictor) -> None:
        """Use a predictor that is already loaded; score thresholds that it has apply as well."""
        self.model = model
        self.category_mapping = {
            str(category_id): name for category_id, name in zip(model.category_ids, model.class_names, strict=True)
        }

    def perform_inference(self, image: np.ndarray) -> None:
        """Detect objects in one RGB image, (H, W, 3) uint8; with another `model.in_channels`, that number replaces 3.

        Raises:
            InputError: the image has another shape or dtype.
        """
        self.perform_batch_inference([image])

    def perform_batch_inference(self, images: list[np.ndarray]) -> None:
        """Detect objects in several images, such as slices; those with the same padded shape form one batch.

        Raises:
            InputError: an image has another shape or dtype than `perform_inference` expects.
        """
        self._original_predictions = list(self.model.predict(images, batch_size=max(1, len(images))))

    def _create_object_prediction_list_from_original_predictions(
        self,
        shift_amount_list: list[list[int | float]] | None = None,
        full_shape_list: list[list[int | float]] | None = None,
    ) -> None:
        """Convert the detections of each image to SAHI's records.

        Args:
            shift_amount_list: position (x, y) of each image in the full image, or one position for all of them.
            full_shape_list: (height, width) of the full image, for each image or for all of them.
        """
        num_images = len(self._original_predictions)
        shifts = fix_shift_amount_list(shift_amount_list)
        shapes = fix_full_shape_list(full_shape_list) or [None]
        self._object_prediction_list_per_image = [
            self._object_predictions(detections, shift, shape)
            for detections, shift, shape in zip(
                self._original_predictions,
                shifts * num_images if len(shifts) == 1 else shifts,
                shapes * num_images if len(shapes) == 1 else shapes,
                strict=True,
            )
        ]

    def _object_predictions(
        self, detections: Detections, shift: list[int | float], full_shape: list[int | float] | None
    ) -> list[ObjectPrediction]:
        confident = detections[detections.scores > self.confidence_threshold]
        return [
            ObjectPrediction(
                bbox=box,
                category_id=self.model.category_ids[label],
                category_name=self.model.class_names[label],
                score=score,
                shift_amount=shift,
                full_shape=full_shape,
            )
            for box, score, label in zip(
                confident.boxes.tolist(), confident.scores.tolist(), confident.labels.tolist(), strict=True
            )
        ]
