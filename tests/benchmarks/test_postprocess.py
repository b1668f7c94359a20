"""The comparison of our detections with torchvision's."""

import pytest
import torch

from retinanet.benchmarks.postprocess import crowded_outputs, noise_outputs, share_of_identical
from retinanet.benchmarks.settings import Settings
from retinanet.detection.postprocess import Postprocess

SIZE, CLASSES = (256, 320), 20


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def settings(request):
    return Settings(rounds=1, device=torch.device("cpu"), dtype=request.param)


@pytest.mark.parametrize("generate", [noise_outputs, crowded_outputs])
def test_all_detections_are_identical(settings, generate):
    assert share_of_identical(Postprocess(), generate(SIZE, 2, CLASSES, settings), SIZE, settings) == 1


def test_equal_logits_do_not_count_as_differences(settings):
    """Hundreds of candidates have the same logit, so the two implementations may keep different ones."""
    outputs = noise_outputs(SIZE, 1, CLASSES, settings)
    coarse = [(level * 16).round() / 16 for level in outputs.class_logits]
    assert len(torch.cat([level.flatten() for level in coarse]).unique()) < 300
    assert share_of_identical(Postprocess(), outputs._replace(class_logits=coarse), SIZE, settings) == 1


@pytest.mark.parametrize("change", [{"nms_iou": 0.9}, {"top_k": 20}])
def test_different_postprocessing_is_detected(settings, change):
    outputs = crowded_outputs(SIZE, 1, CLASSES, settings)
    assert share_of_identical(Postprocess(**change), outputs, SIZE, settings) < 1
