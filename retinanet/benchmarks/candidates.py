"""Enough to do for postprocessing: more candidates on each level than are kept of it."""

import torch
from torch import Tensor

from retinanet.config import PostprocessConfig

DEFAULTS = PostprocessConfig()  # torchvision's are the same, but for the number of detections
MIN_SCORE, TOP_K, MAX_DETECTIONS = DEFAULTS.min_score, DEFAULTS.top_k, DEFAULTS.max_detections
WANTED = 1500  # candidates of each level: more than TOP_K, so that rounding leaves enough


def shift_for_candidates(logits: list[Tensor]) -> Tensor:
    """What to add to the logits L x (B, A_l, K) so that each image has WANTED candidates on each level: ()."""
    threshold = torch.tensor(MIN_SCORE).logit().item()
    shifts = []
    for level in logits:
        pairs = level.flatten(1)
        if pairs.shape[1] > TOP_K:
            weakest = pairs.topk(min(WANTED, pairs.shape[1]), dim=1).values[:, -1]
            shifts.append(threshold - weakest.min())
    # Without a level of that many pairs, half of them.
    return torch.stack(shifts).max() if shifts else threshold - torch.cat(logits, dim=1).median()


def check_candidates(logits: list[Tensor], counts: list[int]) -> None:
    """Raises where an image has not enough candidates on a level, or not all the detections that it may have."""
    for number, level in enumerate(logits):
        candidates = (level.float().sigmoid() > MIN_SCORE).flatten(1).sum(1)
        if level[0].numel() > TOP_K and int(candidates.min()) <= TOP_K:
            raise RuntimeError(
                f"level {number} has {candidates.tolist()} candidates above {MIN_SCORE}, expected over {TOP_K} in each "
                "image: the measurement would be of another work"
            )
    if any(count != MAX_DETECTIONS for count in counts):
        raise RuntimeError(
            f"{counts} detections remain, expected {MAX_DETECTIONS} in each image; give a larger --size or more "
            "--classes"
        )
