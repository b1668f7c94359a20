"""Postprocessing: from head outputs to detections (Lin et al. 2017, section 4, "Inference")."""

from typing import NamedTuple

import torch
from torch import Tensor, sym_min

from retinanet.config import PostprocessConfig, SoftNms
from retinanet.detection.boxes import clip, decode
from retinanet.detection.nms import nms_by_group, soft_nms_by_group
from retinanet.structures import Detections, HeadOutputs

# Number of candidates per image in the first NMS attempt. The time for NMS is quadratic in this number, and whether a
# box survives depends only on better ones: if enough of the best candidates survive, the others are not needed.
FIRST_ATTEMPT = 1000


class _Candidates(NamedTuple):
    """The C candidates of one image."""

    boxes: Tensor  # (C, 4), pixels of the padded input
    scales: Tensor  # (C, 4), factors that convert `boxes` to pixels of the original image
    scores: Tensor  # (C,)
    labels: Tensor  # (C,) int64

    def select(self, index: Tensor | slice) -> "_Candidates":
        return _Candidates(self.boxes[index], self.scales[index], self.scores[index], self.labels[index])


class Postprocess:
    """Select the best anchors per level, decode them, apply NMS, and keep the best per image.

    Boxes without area inside the image are removed before NMS.

    Args:
        min_score: candidates must score higher than this.
        top_k: number of candidates, (anchor, class) pairs, kept on each level before NMS.
        nms_iou: if two boxes have a larger IoU, NMS removes the one with the lower score.
        nms_across_classes: whether NMS also compares boxes of different classes.
        soft_nms: how the scores of overlapping boxes are lowered; None: the boxes are removed instead.
        soft_nms_sigma: see `soft_nms_by_group`.
        max_detections: maximum number of detections per image, over all levels and classes.
        background_logit: whether the last logit is for background. Scores are then a softmax, and background is never a
            candidate; otherwise, the score of a class is the sigmoid of its logit.

    If the outputs contain `quality`, each score is multiplied by its sigmoid.
    """

    def __init__(
        self,
        *,
        min_score: float = 0.05,
        top_k: int = 1000,
        nms_iou: float = 0.5,
        nms_across_classes: bool = False,
        soft_nms: SoftNms | None = None,
        soft_nms_sigma: float = 0.5,
        max_detections: int = 100,
        background_logit: bool = False,
    ):
        self.min_score = min_score
        self.top_k = top_k
        self.nms_iou = nms_iou
        self.nms_across_classes = nms_across_classes
        self.soft_nms = soft_nms
        self.soft_nms_sigma = soft_nms_sigma
        self.max_detections = max_detections
        self.background_logit = background_logit

    @torch.no_grad()
    def __call__(self, outputs: HeadOutputs, image_sizes: Tensor, original_sizes: Tensor) -> list[Detections]:
        """Return the detections of each image, always on the CPU, with boxes in pixels of the original image.

        All candidates are copied to the host in one transfer, which is the only device synchronisation.

        Args:
            outputs: head outputs for B images.
            image_sizes: (B, 2), height and width of each image without padding; boxes are clipped to the image.
            original_sizes: (B, 2), height and width of each image before resizing.
        """
        scores, boxes, labels = self.candidates(outputs, image_sizes)
        scales = (original_sizes / image_sizes).flip(-1).repeat(1, 2).to(boxes)  # (B, 4)
        scales = scales[:, None].expand_as(boxes)
        # One image at a time: NMS compares every pair of boxes in a call, even boxes of different groups.
        return [self._suppress(image) for image in _copy_to_host(boxes, scales, scores, labels)]

    def candidates(self, outputs: HeadOutputs, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Select the top k candidates of each level, decode them, and clip their boxes to the image.

        Candidates are not filtered by score. An exported program contains this method, for any size of the input.

        Returns: scores (B, C), boxes (B, C, 4) in pixels of the padded input, labels (B, C).
        """
        scores_per_level, boxes_per_level, labels_per_level = [], [], []
        quality_per_level = outputs.quality or [None] * len(outputs.anchors)
        for logits, deltas, anchors, quality in zip(
            outputs.class_logits, outputs.box_deltas, outputs.anchors, quality_per_level, strict=True
        ):
            # Softmax logits are comparable only within an anchor, probabilities across all anchors.
            if self.background_logit:
                ranked = logits.softmax(dim=-1, dtype=torch.float32)[..., :-1]  # (B, A_l, K)
            else:
                ranked = logits
            num_classes = ranked.shape[-1]
            # The best k pairs belong to the k anchors with the best top class; a maximum is cheaper than a ranking.
            best_class = ranked.amax(dim=-1)  # (B, A_l)
            if quality is not None:
                quality = quality.float().sigmoid()  # (B, A_l)
                best_class = quality * (best_class if self.background_logit else best_class.float().sigmoid())
            anchor = best_class.topk(sym_min(self.top_k, best_class.shape[1]), dim=1, sorted=False).indices
            rows = ranked.gather(1, anchor[..., None].expand(-1, -1, num_classes))
            # Rank by probability, like every reference implementation: different logits may round to the same score.
            scores = rows if self.background_logit else rows.float().sigmoid()  # (B, k, K)
            if quality is not None:
                scores = scores * quality.gather(1, anchor)[..., None]
            scores = scores.flatten(1)
            scores, pair = scores.topk(sym_min(self.top_k, scores.shape[1]), dim=1)
            anchor = anchor.gather(1, pair // num_classes)  # (B, k)
            deltas = deltas.gather(1, anchor[..., None].expand(-1, -1, 4)).float()
            scores_per_level.append(scores)
            boxes_per_level.append(decode(deltas, anchors.view(-1, 4)[anchor]))
            labels_per_level.append(pair % num_classes)
        boxes = clip(torch.cat(boxes_per_level, 1), image_sizes)
        return torch.cat(scores_per_level, 1), boxes, torch.cat(labels_per_level, 1)

    def _suppress(self, candidates: _Candidates) -> Detections:
        """Apply the score threshold, NMS and `max_detections` to the candidates of one image, on the host."""
        # A single box with a NaN would disable suppression for all boxes.
        is_finite = candidates.boxes.isfinite().all(dim=1) & candidates.scales.isfinite().all(dim=1)
        is_finite &= candidates.scores.isfinite()
        # Boxes in the padding are clipped to a line or a point.
        has_area = (candidates.boxes[:, 2:] > candidates.boxes[:, :2]).all(dim=1)
        candidates = candidates.select((candidates.scores > self.min_score) & is_finite & has_area)
        candidates = candidates.select(candidates.scores.sort(descending=True, stable=True).indices)
        if self.soft_nms is not None:
            return self._suppress_softly(candidates, self.soft_nms)
        for count in (FIRST_ATTEMPT, len(candidates.scores)):
            best = candidates.select(slice(count))
            keep = nms_by_group(best.boxes, best.scores, self._groups(best), max_iou=self.nms_iou)
            keep = keep[: self.max_detections]
            if len(keep) == self.max_detections or count >= len(candidates.scores):
                break
        return Detections((best.boxes * best.scales)[keep], best.scores[keep], best.labels[keep])

    def _suppress_softly(self, candidates: _Candidates, method: SoftNms) -> Detections:
        keep, scores = soft_nms_by_group(
            candidates.boxes,
            candidates.scores,
            self._groups(candidates),
            method=method,
            max_iou=self.nms_iou,
            sigma=self.soft_nms_sigma,
            min_score=self.min_score,
            max_kept=self.max_detections,
        )
        return Detections((candidates.boxes * candidates.scales)[keep], scores, candidates.labels[keep])

    def _groups(self, candidates: _Candidates) -> Tensor:
        """The group of each candidate, (C,): NMS compares only boxes of the same group."""
        return torch.zeros_like(candidates.labels) if self.nms_across_classes else candidates.labels


def _copy_to_host(boxes: Tensor, scales: Tensor, scores: Tensor, labels: Tensor) -> list[_Candidates]:
    """Copy a batch of candidates (B, C, ...) to the host in one transfer, and split them by image."""
    # Floats represent labels exactly for up to 16 million classes.
    packed = torch.cat([boxes, scales, scores[..., None], labels[..., None].float()], dim=-1).cpu()
    boxes, scales, scores, labels = packed.split([4, 4, 1, 1], dim=-1)
    per_image = zip(boxes, scales, scores.squeeze(-1), labels.squeeze(-1).long(), strict=True)
    return [_Candidates(*candidates) for candidates in per_image]


def build_postprocess(cfg: PostprocessConfig, *, background_logit: bool) -> Postprocess:
    """Build the postprocessing; `background_logit` comes from the model (`ModelConfig.has_background_logit`)."""
    return Postprocess(
        min_score=cfg.min_score,
        top_k=cfg.top_k,
        nms_iou=cfg.nms_iou,
        nms_across_classes=cfg.nms_across_classes,
        soft_nms=cfg.soft_nms,
        soft_nms_sigma=cfg.soft_nms_sigma,
        max_detections=cfg.max_detections,
        background_logit=background_logit,
    )
