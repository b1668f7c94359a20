"""Evaluation with tiles and test-time augmentation."""

import pytest
import torch

from retinanet.config.load import load_config
from retinanet.data.build import build_reader, load_train_data, load_val_data
from retinanet.engine.evaluate import evaluate_dataset
from retinanet.evaluation.settings import settings_that_change_ap
from retinanet.inference.predictor import Predictor
from retinanet.model.retinanet import build_model

NUM_IMAGES = 2


def evaluated(overrides):
    """The evaluation of a network with random weights, and the detections of a predictor on the same images."""
    overrides = [*overrides, "postprocess.min_score=0", "postprocess.top_k=50", "train.eval_batch_size=1"]
    cfg = load_config("quickstart", overrides)
    data = load_val_data(cfg, load_train_data(cfg).class_names).subset(range(NUM_IMAGES))
    torch.manual_seed(0)
    predictor = Predictor(build_model(cfg.model, len(data.class_names)), data.class_names, data.category_ids, cfg)
    reader, batches = build_reader(cfg, data, [], seed=0), []
    evaluation = evaluate_dataset(cfg, predictor.model, data, device=torch.device("cpu"), on_batch=batches.append)
    images = [reader.read(index).image for index in range(NUM_IMAGES)]
    return evaluation, list(predictor.predict(images, batch_size=1)), batches


@pytest.mark.parametrize(
    ("overrides", "num_announced_views"),
    [
        ([], 0),
        # Images of 320 x 256 pixels: tiles start at 0, 80, 160 and 220, and at 0, 80 and 156.
        (["inference.tile.size=100", "inference.tile.whole_image=false"], 12),
        (["inference.augment.flip=true", "inference.augment.scales=[1.5]", "inference.merge=weighted_boxes"], 4),
    ],
    ids=["plain", "tiles", "augmentation"],
)
def test_evaluation_uses_the_detections_of_prediction(tiny_overrides, overrides, num_announced_views):
    evaluation, found, batches = evaluated([*tiny_overrides, *overrides])
    for index in range(NUM_IMAGES):
        assert len(found[index]) >= 50
        assert torch.equal(evaluation.detections[index].boxes, found[index].boxes)
        assert torch.equal(evaluation.detections[index].scores, found[index].scores)
        assert torch.equal(evaluation.detections[index].labels, found[index].labels)
    # Each image is announced when it is loaded, and again after each of its views; None announces the scoring.
    assert len(batches) == (1 + num_announced_views) * NUM_IMAGES + 1 and batches[-1] is None


def test_tiles_change_the_detections_but_not_the_losses(tiny_overrides):
    plain, _, _ = evaluated(tiny_overrides)
    tiled, _, _ = evaluated([*tiny_overrides, "inference.tile.size=100"])
    assert tiled.losses == plain.losses
    assert len(tiled.detections[0]) > len(plain.detections[0])


def test_tiles_and_augmentation_are_reported_as_settings_that_change_ap():
    cfg = load_config("quickstart", ["inference.tile.size=64", "inference.augment.flip=true"])
    first, second = settings_that_change_ap(cfg)
    assert first.startswith("inference.tile.size is 64") and second.startswith("inference.augment")
