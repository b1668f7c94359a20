"""Online hard example mining (Shrivastava et al. 2016), a baseline for focal loss (Lin et al. 2017, section 5.1)."""

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from retinanet.structures import HeadOutputs

# Number of candidates in the first suppression attempt, as a multiple of the number to keep. Each further attempt
# multiplies the number of candidates by the same factor. Whether an anchor survives depends only on harder ones: if
# enough of the hardest candidates survive, the rest are not needed.
ATTEMPT_FACTOR = 4


class HardExampleMining:
    """Select the anchors with the highest cross entropy in each image, over all levels.

    If anchors overlap by more than `nms_iou`, only the hardest is kept. Overlap is measured between the anchors
    themselves, as Shrivastava et al. do for proposals, since an anchor's features come from its own area. Predicted
    boxes would not work, because the boxes of negatives, which are nearly all anchors, are not trained.

    Unlike the rest of a training step, this synchronises the device.

    Args:
        keep: maximum number of anchors per image.
        nms_iou: IoU above which the easier of two anchors is suppressed; None disables suppression.
        one_to_three: select the hardest positives, up to a quarter of `keep` (at least one), and up to three of the
            hardest negatives for each; in an image without positives, nothing is selected. Positives and negatives are
            suppressed separately; otherwise, whether an easy positive survives would depend on all harder negatives,
            perhaps a hundred thousand. If fewer than `keep` / 4 positives survive, `keep` has no effect.
    """

    def __init__(self, *, keep: int = 512, nms_iou: float | None = 0.7, one_to_three: bool = False):
        self.keep = keep
        self.nms_iou = nms_iou
        self.one_to_three = one_to_three

    @torch.no_grad()
    def __call__(self, outputs: HeadOutputs, labels: Tensor, valid: Tensor) -> Tensor:
        """Return a mask of the selected anchors, a subset of the valid ones: (B, A) bool.

        Args:
            outputs: head outputs without a background logit.
            labels: (B, A), 0..K-1, or K for background.
            valid: (B, A) bool, the candidates.
        """
        sizes = [logits.shape[1] for logits in outputs.class_logits]
        per_level = map(_cross_entropy, outputs.class_logits, labels.split(sizes, dim=1))
        losses = torch.cat(list(per_level), dim=1)  # (B, A)
        anchors = torch.cat([level.view(-1, 4) for level in outputs.anchors])
        is_object = labels < outputs.class_logits[0].shape[-1]
        selected = torch.zeros_like(valid)
        for image in range(len(losses)):
            if self.one_to_three:
                most = max(1, self.keep // 4)
                positives = self._hardest(anchors, losses[image], valid[image] & is_object[image], most)
                most = min(3 * len(positives), self.keep - len(positives))
                negatives = self._hardest(anchors, losses[image], valid[image] & ~is_object[image], most)
                selected[image, torch.cat([positives, negatives])] = True
            else:
                selected[image, self._hardest(anchors, losses[image], valid[image], self.keep)] = True
        return selected

    def _hardest(self, anchors: Tensor, losses: Tensor, candidates: Tensor, most: int) -> Tensor:
        """Indices of the hardest candidates (A,) of an image, at most `most`, that survive suppression."""
        index = candidates.nonzero().flatten()
        index = index[losses[index].argsort(descending=True, stable=True)]
        if self.nms_iou is None:
            return index[:most]
        count = ATTEMPT_FACTOR * most
        while True:
            seen = index[:count]
            kept = seen[torchvision.ops.nms(anchors[seen], losses[seen], self.nms_iou)]
            if len(kept) >= most or count >= len(index):
                return kept[:most]
            count *= ATTEMPT_FACTOR


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy summed over classes: (B, A_l, K), (B, A_l) with K for background -> (B, A_l)."""
    logits = logits.float()
    column = labels.clamp(max=logits.shape[-1] - 1)[..., None]
    has_target = (labels < logits.shape[-1])[..., None]
    losses = F.softplus(logits)
    target_losses = torch.where(has_target, F.softplus(-logits.gather(2, column)), losses.gather(2, column))
    return losses.scatter_(2, column, target_losses).sum(-1)
