"""Settings that make AP incomparable with published scores."""

from retinanet.config import Config, PostprocessConfig


def settings_that_change_ap(cfg: Config) -> list[str]:
    """The settings of postprocessing and scoring that differ from their defaults and change AP, one sentence each."""
    standard = PostprocessConfig()
    found = []
    if cfg.postprocess.min_score > standard.min_score:
        found.append(
            f"postprocess.min_score is {cfg.postprocess.min_score:g} instead of {standard.min_score:g}: "
            "detections with lower scores are missing, which lowers AP"
        )
    if cfg.postprocess.max_detections < standard.max_detections:
        found.append(
            f"postprocess.max_detections is {cfg.postprocess.max_detections} instead of {standard.max_detections}, "
            "which lowers AP"
        )
    if cfg.evaluation.max_detections is not None:
        found.append(
            f"evaluation.max_detections is {cfg.evaluation.max_detections}: AP is not the one that COCO defines"
        )
    if cfg.inference.tile.size is not None:
        found.append(f"inference.tile.size is {cfg.inference.tile.size}: published scores are measured without tiles")
    if cfg.inference.augment.flip or cfg.inference.augment.scales:
        found.append("inference.augment is set: most published scores are measured without test-time augmentation")
    return found
