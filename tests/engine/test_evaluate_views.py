"""Evaluation with tiles and test-time augmentation."""

import pytest
import torch

from retinanet.config.load import load_config
from retinanet.data.build import build_reader, load_train_data, load_val_data
from retinanet.engine.evaluate import evaluate_dataset
from retinanet.evaluation.settings import settings_that_change_ap
from retinanet.inference.predictor import Predictor
from retinanet.model.retinanet import build_model

CPU = torch.device("cpu")


def evaluated(overrides):
    """The evaluation of a network with random weights, and the detections of a predictor on the same images."""
    cfg = load_config("quickstart", [*overrides, "postprocess.min_score=0", "train.eval_batch_size=1"])
    data = load_val_data(cfg, load_train_data(cfg).class_names).subset(range(3))
    torch.manual_seed(0)
    predictor = Predictor(build_model(cfg.model, len(data.class_names)), data.class_names, data.category_ids, cfg)
    reader, batches = build_reader(cfg, data, [], seed=0), []
    evaluation = evaluate_dataset(cfg, predictor.model, data, device=CPU, on_batch=batches.append)
    found = list(predictor.predict([reader.read(index).image for index in range(3)], batch_size=1))
    return evaluation, found, batches


@pytest.mark.parametrize(
    "overrides",
    [
        ["inference.tile.size=64", "inference.tile.whole_image=false"],
        ["inference.augment.flip=true", "inference.augment.scales=[1.5]", "inference.merge=weighted_boxes"],
    ],
)
def test_evaluation_uses_the_detections_of_prediction(tiny_overrides, overrides):
    plain, plain_found, _ = evaluated(tiny_overrides)
    evaluation, found, batches = evaluated([*tiny_overrides, *overrides])
    assert evaluation.losses == plain.losses
    for index in range(3):
        assert torch.equal(evaluation.detections[index].boxes, found[index].boxes)
        assert torch.equal(evaluation.detections[index].scores, found[index].scores)
        assert not torch.equal(found[index].scores[:50], plain_found[index].scores[:50])
        assert torch.equal(plain.detections[index].scores, plain_found[index].scores)
    # Each image is announced when it is loaded and when its views are detected, then the scoring.
    assert len(batches) == 2 * 3 + 1 and batches[-1] is None


def test_tiles_and_augmentation_are_reported_as_settings_that_change_ap():
    cfg = load_config("quickstart", ["inference.tile.size=64", "inference.augment.flip=true"])
    first, second = settings_that_change_ap(cfg)
    assert first.startswith("inference.tile.size is 64") and second.startswith("inference.augment")
