import pytest
import torch

from retinanet.config.load import load_config
from retinanet.data.build import build_eval_sampler, eval_loader, load_train_data, load_val_data
from retinanet.detection.assignment import assign
from retinanet.detection.postprocess import build_postprocess
from retinanet.engine.evaluate import evaluate_batches, evaluate_dataset
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


def test_loss_without_positive_anchors_is_not_divided(parts):
    cfg, data, model = parts
    model.eval()

    def assign_nothing(anchors, targets):
        return assign(anchors, targets._replace(is_object=torch.zeros_like(targets.is_object)))

    (batch, *_) = eval_loader(cfg, data, build_eval_sampler(cfg, data), pin_memory=False)
    criterion, one = build_loss(cfg.loss), torch.ones(())
    with torch.no_grad():
        outputs = model(batch.images, batch.image_sizes)
        expected = criterion(outputs, assign_nothing(outputs.anchors, batch.targets), batch.targets, one)
    result = evaluate_batches(
        model, [batch], data, postprocess=build_postprocess(cfg.postprocess, background_logit=False),
        criterion=criterion, assign=assign_nothing, device=torch.device("cpu"),
    )  # fmt: skip
    assert result.losses["box_loss"] == 0.0
    assert result.losses["class_loss"] == result.losses["loss"] == pytest.approx(float(expected.classification))
