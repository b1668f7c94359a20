"""From predictions to detections (Lin et al. 2017, section 4, "Inference")."""

import torch
from torch import Tensor

from retinanet.config import PostprocessConfig
from retinanet.config.model import ClassActivation
from retinanet.detection.boxes import clip, decode
from retinanet.detection.nms import nms_by_group
from retinanet.structures import Detections, HeadOutputs

# Candidates of an image that suppression looks at first. Its time grows with their square, and what becomes of a box
# depends on better ones alone: where the best of them leave enough detections, the others need no look.
FIRST_LOOK = 1000


class Postprocess:
    """Best anchors per level, decoded, suppressed per class, best `max_detections` of each image.

    Args:
        min_score: a candidate scores more than this.
        top_k: candidates kept on each level, (anchor, class) pairs, before suppression.
        nms_iou: of two boxes of one class that overlap by more, the weaker goes.
        max_detections: kept per image over all levels and classes.
        class_activation: what makes scores of the logits. Of a softmax the last is that of background, which is no
            candidate.
    """

    def __init__(
        self,
        *,
        min_score: float = 0.05,
        top_k: int = 1000,
        nms_iou: float = 0.5,
        max_detections: int = 100,
        class_activation: ClassActivation = "sigmoid",
    ):
        self.min_score = min_score
        self.top_k = top_k
        self.nms_iou = nms_iou
        self.max_detections = max_detections
        self.class_activation = class_activation

    @torch.no_grad()
    def __call__(self, predictions: HeadOutputs, image_sizes: Tensor, original_sizes: Tensor) -> list[Detections]:
        """Detections of each image, boxes in pixels of the original image, on the CPU whatever the device.

        The candidates come to the host in one copy, the only time it waits for the device.

        Args:
            predictions: of B images.
            image_sizes: (B, 2), height and width inside the padding; boxes are cut to it.
            original_sizes: (B, 2), height and width of the image before resizing.
        """
        scores, boxes, labels = self._candidates(predictions)
        boxes = clip(boxes, image_sizes)
        scale = (original_sizes / image_sizes).flip(-1).repeat(1, 2).to(boxes)  # (B, 4)
        scale = scale[:, None].expand_as(boxes)
        # Labels as floats are exact to 16 million classes.
        candidates = torch.cat([boxes, scale, scores[..., None], labels[..., None].float()], dim=-1).cpu()
        # Image by image: suppression compares every two boxes it is given, also those of different groups.
        return [self._suppress(image) for image in candidates]

    def _candidates(self, predictions: HeadOutputs) -> tuple[Tensor, Tensor, Tensor]:
        """Top-k of each level before decoding: scores (B, C), boxes (B, C, 4), labels (B, C)."""
        is_softmax = self.class_activation == "softmax"
        scores_per_level, boxes_per_level, labels_per_level = [], [], []
        for logits, deltas, anchors in zip(*predictions, strict=True):
            # Logits of a softmax compare with those of the same anchor alone, its probabilities with all.
            ranked = logits.softmax(dim=-1, dtype=torch.float32)[..., :-1] if is_softmax else logits  # (B, A_l, K)
            num_classes = ranked.shape[-1]
            # The best k pairs are among the k anchors with the best classes: a maximum is cheaper than a ranking.
            best_class = ranked.amax(dim=-1)  # (B, A_l)
            anchor = best_class.topk(min(self.top_k, best_class.shape[1]), dim=1, sorted=False).indices
            rows = ranked.gather(1, anchor[..., None].expand(-1, -1, num_classes))
            # Ranked as probabilities, like every reference: two logits may round to one score.
            scores = (rows if is_softmax else rows.float().sigmoid()).flatten(1)
            scores, pair = scores.topk(min(self.top_k, scores.shape[1]), dim=1)
            anchor = anchor.gather(1, pair // num_classes)  # (B, k)
            deltas = deltas.gather(1, anchor[..., None].expand(-1, -1, 4)).float()
            scores_per_level.append(scores)
            boxes_per_level.append(decode(deltas, anchors.view(-1, 4)[anchor]))
            labels_per_level.append(pair % num_classes)
        return torch.cat(scores_per_level, 1), torch.cat(boxes_per_level, 1), torch.cat(labels_per_level, 1)

    def _suppress(self, candidates: Tensor) -> Detections:
        """Of one image, on the host: (C, 10), box, scale, score and label of each."""
        # One box that is not a number would switch suppression off for all.
        candidates = candidates[(candidates[:, 8] > self.min_score) & candidates.isfinite().all(dim=1)]
        candidates = candidates[candidates[:, 8].sort(descending=True, stable=True).indices]
        for look in (FIRST_LOOK, len(candidates)):
            boxes, scale, scores, labels = candidates[:look].split([4, 4, 1, 1], dim=1)
            scores, labels = scores.flatten(), labels.flatten().long()
            keep = nms_by_group(boxes, scores, labels, max_iou=self.nms_iou)[: self.max_detections]
            if len(keep) == self.max_detections or look >= len(candidates):
                break
        return Detections((boxes * scale)[keep], scores[keep], labels[keep])


def build_postprocess(cfg: PostprocessConfig, *, class_activation: ClassActivation) -> Postprocess:
    return Postprocess(
        min_score=cfg.min_score,
        top_k=cfg.top_k,
        nms_iou=cfg.nms_iou,
        max_detections=cfg.max_detections,
        class_activation=class_activation,
    )
