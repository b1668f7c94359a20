import pytest
import torch

from retinanet.config.load import load_config
from retinanet.data.build import build_eval_sampler, eval_loader, load_train_data, load_val_data
from retinanet.detection.assignment import assign
from retinanet.engine.evaluate import evaluate_dataset
from retinanet.losses.build import build_loss
from retinanet.model.retinanet import build_model


@pytest.fixture
def parts(tiny_overrides):
    cfg = load_config("quickstart", tiny_overrides)
    data = load_val_data(cfg, load_train_data(cfg).class_names)
    torch.manual_seed(0)
    return cfg, data, build_model(cfg.model, len(data.class_names))


def test_loss_is_normalised_over_the_whole_set(parts):
    cfg, data, model = parts
    model.eval()
    sums, num_positive = torch.zeros(2), 0
    with torch.no_grad():
        for batch in eval_loader(cfg, data, build_eval_sampler(cfg, data), pin_memory=False):
            outputs = model(batch.images, batch.image_sizes)
            assignment = assign(outputs.anchors, batch.targets)
            losses = build_loss(cfg.loss)(outputs, assignment, batch.targets, torch.ones(()))
            sums += torch.stack([losses.classification, losses.box_regression])
            num_positive += int(assignment.positive.sum())
    result = evaluate_dataset(cfg, model, data, device=torch.device("cpu"))
    assert result.losses["class_loss"] == pytest.approx(float(sums[0]) / num_positive)
    assert result.losses["box_loss"] == pytest.approx(float(sums[1]) / num_positive)
    assert sorted(result.detections) == list(range(len(data)))
