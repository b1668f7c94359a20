import math

import torch

from retinanet.engine.metrics import RunningMeans, StepMetrics
from retinanet.losses.detection import Losses

NAN = math.nan


def step_metrics(class_loss, box_loss, grad_norm, num_positive):
    losses = Losses(torch.tensor(class_loss), torch.tensor(box_loss))
    return StepMetrics(losses, torch.tensor(grad_norm), torch.tensor(num_positive))


def test_running_means_are_per_step_and_read_resets_them():
    running = RunningMeans(torch.device("cpu"), skips=False)
    running.add(step_metrics(1.0, 0.5, 4.0, 10.0))
    running.add(step_metrics(3.0, 1.5, 8.0, 30.0))
    expected = {"loss": 3.0, "class_loss": 2.0, "box_loss": 1.0, "grad_norm": 6.0, "positive_anchors": 20.0}
    assert running.read() == expected
    running.add(step_metrics(5.0, 0.0, 1.0, 2.0))
    assert running.read()["loss"] == 5.0


def test_non_finite_values_count_as_zero_and_as_skipped():
    running = RunningMeans(torch.device("cpu"), skips=True)
    running.add(step_metrics(NAN, 1.0, math.inf, 10.0))
    running.add(step_metrics(2.0, 1.0, 3.0, 10.0))
    means = running.read()
    assert (means["class_loss"], means["grad_norm"], means["skipped_share"]) == (1.0, 1.5, 0.5)


def test_restored_running_means_continue():
    running, restored = (RunningMeans(torch.device("cpu"), skips=False) for _ in range(2))
    running.add(step_metrics(1.0, 0.5, 4.0, 10.0))
    restored.load_state_dict(running.state_dict())
    for means in (running, restored):
        means.add(step_metrics(3.0, 1.5, 8.0, 30.0))
    assert restored.read() == running.read()
