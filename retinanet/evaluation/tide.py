"""TIDE error types (Bolya et al. 2020), computed by hotcoco: the number of errors of each and the AP50 they cost."""

from typing import NamedTuple

from hotcoco import COCOeval

POSITIVE_IOU, BACKGROUND_IOU = 0.5, 0.1

# hotcoco's keys, in the order of the paper.
_KINDS = {
    "Cls": "classification",
    "Loc": "localisation",
    "Both": "classification and localisation",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}


class ErrorKind(NamedTuple):
    """All errors of one kind."""

    name: str
    count: int
    delta_ap: float  # increase in AP50 if only these errors were corrected


class TideErrors(NamedTuple):
    """Every false positive and every missed object, by kind."""

    ap50: float
    kinds: tuple[ErrorKind, ...]  # in the order of the paper
    false_positives: float  # increase in AP50 without false positives
    false_negatives: float  # increase in AP50 if missed objects did not count

    @property
    def largest(self) -> ErrorKind:
        """The kind of error that costs the most AP50."""
        return max(self.kinds, key=lambda kind: kind.delta_ap)


def tide_errors(evaluation: COCOeval) -> TideErrors:
    """Classify the errors of all detections by their IoU with objects.

    A false positive is the first of these that applies: localisation (IoU 0.1 to 0.5 with an object of its class),
    classification (IoU of at least 0.5 with one of another class), duplicate (the object of its class is matched by a
    higher score), background (IoU of at most 0.1 with every object), or else classification and localisation. An object
    is missed if no detection matches it, and no localisation or classification error would match it if corrected.

    Args:
        evaluation: of all detections; see `coco_evaluation`.
    """
    errors = evaluation.tide_errors(pos_thr=POSITIVE_IOU, bg_thr=BACKGROUND_IOU)
    deltas, counts = errors["delta_ap"], errors["counts"]
    return TideErrors(
        ap50=errors["ap_base"],
        kinds=tuple(ErrorKind(name, int(counts[key]), deltas[key]) for key, name in _KINDS.items()),
        false_positives=deltas["FP"],
        false_negatives=deltas["FN"],
    )
