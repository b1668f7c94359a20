"""Online hard example mining (Shrivastava et al. 2016): what the focal loss is held against (Lin et al. 2017, 5.1)."""

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from retinanet.structures import HeadOutputs

# Candidates that suppression looks at first, in units of what is kept; then as many times more. What becomes of an
# anchor depends on harder ones alone: where those give enough, the rest needs no look.
FIRST_LOOK = 4


class HardExamples:
    """Chooses the anchors of each image, of all its levels, whose cross entropy is highest.

    Of anchors that overlap by more than `nms_iou`, the harder one stays. The overlap is that of the anchors as they
    stand, as it is that of the proposals in Shrivastava et al.: what an anchor looks at. Predicted boxes would not do,
    since nothing teaches those of negatives, which are nearly all.

    Reads the device, unlike everything else in a training step.

    Args:
        keep: at most so many anchors an image.
        nms_iou: None suppresses nothing.
        one_to_three: the hardest positives up to a quarter of `keep` (at least one), and the hardest negatives up to
            three for each of them; an image without positives then gives nothing. Each kind is suppressed by itself:
            what becomes of an easy positive would depend on all harder negatives, which may be a hundred thousand.
            While fewer positives than a quarter of `keep` survive suppression, `keep` changes nothing.
    """

    def __init__(self, *, keep: int = 512, nms_iou: float | None = 0.7, one_to_three: bool = False):
        self.keep = keep
        self.nms_iou = nms_iou
        self.one_to_three = one_to_three

    @torch.no_grad()
    def __call__(self, predictions: HeadOutputs, labels: Tensor, counted: Tensor) -> Tensor:
        """(B, A) bool, those of the anchors `counted` (B, A) that are chosen; labels (B, A) have K for background."""
        sizes = [logits.shape[1] for logits in predictions.class_logits]
        per_level = map(_cross_entropy, predictions.class_logits, labels.split(sizes, dim=1))
        losses = torch.cat(list(per_level), dim=1)  # (B, A)
        anchors = torch.cat([level.view(-1, 4) for level in predictions.anchors])
        is_object = labels < predictions.class_logits[0].shape[-1]
        chosen = torch.zeros_like(counted)
        for image in range(len(losses)):
            if self.one_to_three:
                most = max(1, self.keep // 4)
                positives = self._hardest(anchors, losses[image], counted[image] & is_object[image], most)
                most = min(3 * len(positives), self.keep - len(positives))
                negatives = self._hardest(anchors, losses[image], counted[image] & ~is_object[image], most)
                chosen[image, torch.cat([positives, negatives])] = True
            else:
                chosen[image, self._hardest(anchors, losses[image], counted[image], self.keep)] = True
        return chosen

    def _hardest(self, anchors: Tensor, losses: Tensor, candidates: Tensor, most: int) -> Tensor:
        """Of the anchors (A, 4) of an image that are candidates (A,), those that are left, at most so many."""
        index = candidates.nonzero().flatten()
        index = index[losses[index].argsort(descending=True, stable=True)]
        if self.nms_iou is None:
            return index[:most]
        look = FIRST_LOOK * most
        while True:
            seen = index[:look]
            left = seen[torchvision.ops.nms(anchors[seen], losses[seen], self.nms_iou)]
            if len(left) >= most or look >= len(index):
                return left[:most]
            look *= FIRST_LOOK


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, A_l, K), (B, A_l) with K for background -> (B, A_l), summed over the classes."""
    logits = logits.float()
    column = labels.clamp(max=logits.shape[-1] - 1)[..., None]
    is_class = (labels < logits.shape[-1])[..., None]
    losses = F.softplus(logits)
    own = torch.where(is_class, F.softplus(-logits.gather(2, column)), losses.gather(2, column))
    return losses.scatter_(2, column, own).sum(-1)
