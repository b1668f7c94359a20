"""Give postprocessing a full load: more candidates per level than `top_k` keeps."""

import torch
from torch import Tensor

from retinanet.config import PostprocessConfig

DEFAULTS = PostprocessConfig()  # the same as torchvision's, except for the number of detections
MIN_SCORE, TOP_K, MAX_DETECTIONS = DEFAULTS.min_score, DEFAULTS.top_k, DEFAULTS.max_detections
CANDIDATES_PER_LEVEL = 1500  # more than TOP_K, to leave enough after rounding


def shift_for_candidates(logits: list[Tensor]) -> Tensor:
    """Scalar to add to logits L x (B, A_l, K) to give each image CANDIDATES_PER_LEVEL candidates on each level."""
    threshold = torch.tensor(MIN_SCORE).logit().item()
    shifts = []
    for level in logits:
        pairs = level.flatten(1)
        if pairs.shape[1] > TOP_K:
            weakest = pairs.topk(min(CANDIDATES_PER_LEVEL, pairs.shape[1]), dim=1).values[:, -1]
            shifts.append(threshold - weakest.min())
    # If no level has enough (anchor, class) pairs, make half of all pairs candidates.
    return torch.stack(shifts).max() if shifts else threshold - torch.cat(logits, dim=1).median()


def check_candidates(logits: list[Tensor], counts: list[int]) -> None:
    """Check that each image has enough candidates on each level and the maximum number of detections.

    Raises:
        RuntimeError: there are too few, so postprocessing would do less work than intended.
    """
    for number, level in enumerate(logits):
        candidates = (level.float().sigmoid() > MIN_SCORE).flatten(1).sum(1)
        if level[0].numel() > TOP_K and int(candidates.min()) <= TOP_K:
            raise RuntimeError(
                f"level {number} has {candidates.tolist()} candidates above {MIN_SCORE}, expected more than {TOP_K} "
                "in each image: postprocessing would do less work than intended"
            )
    if any(count != MAX_DETECTIONS for count in counts):
        raise RuntimeError(
            f"{counts} detections, expected {MAX_DETECTIONS} in each image; increase --size or --classes"
        )
