"""From predictions to detections (Lin et al. 2017, section 4, "Inference")."""

import torch
from torch import Tensor

from retinanet.detection.boxes import clip, decode
from retinanet.detection.nms import nms_by_group
from retinanet.structures import Detections, Predictions


class Postprocess:
    """Best anchors per level, decoded, suppressed per class, best `max_detections` of each image.

    Args:
        min_score: a candidate scores more than this.
        top_k: candidates kept on each level, (anchor, class) pairs, before suppression.
        nms_iou: of two boxes of one class that overlap by more, the weaker goes.
        max_detections: kept per image over all levels and classes.
    """

    def __init__(self, *, min_score: float = 0.05, top_k: int = 1000, nms_iou: float = 0.5, max_detections: int = 100):
        self.min_score = min_score
        self.top_k = top_k
        self.nms_iou = nms_iou
        self.max_detections = max_detections

    @torch.no_grad()
    def __call__(self, predictions: Predictions, image_sizes: Tensor, original_sizes: Tensor) -> list[Detections]:
        """Detections of each image, boxes in pixels of the original picture.

        Args:
            predictions: of B images.
            image_sizes: (B, 2), height and width inside the padding; boxes are cut to it.
            original_sizes: (B, 2), height and width of the picture before resizing.
        """
        scores, boxes, labels = self._candidates(predictions)
        boxes = clip(boxes, image_sizes)
        scale = (original_sizes / image_sizes).flip(-1).repeat(1, 2).to(boxes)  # (B, 4)
        detections = []
        # Image by image: suppression compares every two boxes it is given, also those of different groups.
        for index in range(len(image_sizes)):
            likely = scores[index] > self.min_score
            image_scores, image_boxes, image_labels = scores[index][likely], boxes[index][likely], labels[index][likely]
            keep = nms_by_group(image_boxes, image_scores, image_labels, max_iou=self.nms_iou)[: self.max_detections]
            detections.append(Detections(image_boxes[keep] * scale[index], image_scores[keep], image_labels[keep]))
        return detections

    def _candidates(self, predictions: Predictions) -> tuple[Tensor, Tensor, Tensor]:
        """Top-k of each level before decoding: scores (B, C), boxes (B, C, 4), labels (B, C)."""
        scores_per_level, boxes_per_level, labels_per_level = [], [], []
        for logits, deltas, anchors in zip(*predictions, strict=True):
            num_classes = logits.shape[-1]
            # Ranked as probabilities, like every reference: two logits may round to one score.
            scores = logits.float().sigmoid().flatten(1)
            scores, pair = scores.topk(min(self.top_k, scores.shape[1]), dim=1)
            anchor = pair // num_classes  # (B, k)
            deltas = deltas.float().gather(1, anchor[..., None].expand(-1, -1, 4))
            scores_per_level.append(scores)
            boxes_per_level.append(decode(deltas, anchors[anchor]))
            labels_per_level.append(pair % num_classes)
        return torch.cat(scores_per_level, 1), torch.cat(boxes_per_level, 1), torch.cat(labels_per_level, 1)
