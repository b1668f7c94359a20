"""`Predictor.from_pretrained`: bit-identical to the checkpoint, from this folder alone."""

import shutil

import pytest
import torch

from retinanet.checkpoint.file import write_checkpoint
from retinanet.errors import InputError
from retinanet.inference.predictor import Predictor
from retinanet.interop import pretrained as module
from tests.helpers.published import assert_bit_identical, detector, noise, published

SOFTMAX = ("model.class_activation=softmax", "loss.classification={type: softmax_focal}")
CASES = {
    "default": detector,
    "average of the weights": lambda: detector(average=True),
    "thresholds": lambda: detector(thresholds=(0.41, None, 0.405)),
    "softmax": lambda: detector(*SOFTMAX),
    "class logits in float32": lambda: detector("model.class_precision=fp32", "inference.precision=bf16"),
    "bfloat16": lambda: detector("inference.precision=bf16"),
    "norms with statistics": lambda: detector("model.backbone.norm=batch", "model.head_norm=group"),
    "anchors and image sizes": lambda: detector(
        "model.anchors.sizes=[16, 30, 64, 128, 256]",
        "model.anchors.rounding=torchvision",
        "data.resize.val_shorter=48",
        "model.mean=[100, 110, 120]",
        "postprocess.nms_iou=0.7",
    ),
}


@pytest.fixture(params=CASES)
def pair(request, tmp_path):
    """A checkpoint file, and a published folder elsewhere that was made from it."""
    write_checkpoint(tmp_path / "model.pt", CASES[request.param]())
    folder = published(tmp_path / "out", CASES[request.param]())
    return tmp_path / "model.pt", folder.rename(tmp_path / "moved")


def test_detections_are_bit_identical_to_those_of_the_checkpoint(pair):
    checkpoint, folder = pair
    expected, found = Predictor.from_checkpoint(checkpoint), Predictor.from_pretrained(folder)
    assert (found.class_names, found.category_ids, found.thresholds) == (
        expected.class_names,
        expected.category_ids,
        expected.thresholds,
    )
    for number, size in enumerate(((64, 64), (100, 150), (150, 100))):
        assert_bit_identical(found(noise(*size, number)), expected(noise(*size, number)))
    assert_bit_identical(Predictor.from_checkpoint(folder)(noise(64, 64)), expected(noise(64, 64)))


@pytest.fixture
def folder(tmp_path):
    return published(tmp_path / "out", detector(thresholds=(0.41, None, 0.405)))


def test_overrides_and_thresholds_work_as_for_a_checkpoint(folder):
    image = noise(100, 100)
    assert len(Predictor.from_pretrained(folder, "postprocess.max_detections=7", use_thresholds=False)(image)) == 7
    assert Predictor.from_pretrained(folder).thresholds == (0.41, 0.3, 0.405)
    assert Predictor.from_pretrained(folder, ["postprocess.min_score=0.3"]).thresholds is None
    with pytest.raises(InputError, match=r"postprocess\.nms: unknown key"):
        Predictor.from_pretrained(folder, ["postprocess.nms=0.7"])
    with pytest.raises(InputError, match="out: the weights do not fit the model as changed by the overrides"):
        Predictor.from_pretrained(folder, ["model.channels=128"])


def test_choice_of_weights_is_refused(folder):
    with pytest.raises(InputError, match="out: found weights=last, but a published folder has only one set"):
        Predictor.from_checkpoint(folder, weights="last")


def test_id_is_downloaded_unless_it_is_a_folder(folder, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(module, "download", lambda name, *, revision: calls.append((name, revision)) or folder)
    monkeypatch.chdir(tmp_path)
    assert Predictor.from_pretrained("my-lab/cells", revision="v2").class_names == ("one", "two", "three")
    assert calls == [("my-lab/cells", "v2")]
    shutil.copytree(folder, tmp_path / "my-lab" / "cells")
    Predictor.from_pretrained("my-lab/cells")
    assert len(calls) == 1
    with pytest.raises(InputError, match="my-lab/cells: revision is 'v2', but this is not an id on a hub"):
        Predictor.from_pretrained("my-lab/cells", revision="v2")


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match=r"photos/config\.json: cannot be read: .*; pass a folder written by"):
        Predictor.from_pretrained(tmp_path / "photos")


def test_weights_of_another_network_are_refused(tmp_path):
    checkpoint = detector()
    state = dict(checkpoint.weights())
    state["backbone.other"] = torch.zeros(1)
    folder = published(tmp_path / "out", checkpoint._replace(state={"model": state}))
    with pytest.raises(InputError, match=r"(?s)out: the weights do not fit the model in its config: .*backbone\.other"):
        Predictor.from_pretrained(folder)
