"""`SahiModel` against the installed SAHI: slices, categories, thresholds and errors."""

import importlib
import os
import sys

import numpy as np
import pytest
from PIL import Image

from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.data.synthetic.scene import draw_image
from retinanet.errors import InputError
from retinanet.inference.predictor import Predictor
from tests.helpers.published import NAMES, detector, published

CATEGORY_IDS = (3, 5, 9)  # of the helper's checkpoint
SIDE = 200
CORNERS = [(0, 0), (SIDE, 0), (0, SIDE), (SIDE, SIDE)]  # x and y of each tile, in the order of SAHI's slices


@pytest.fixture
def sahi():
    """The module `sahi.predict`."""
    return pytest.importorskip("sahi.predict", reason="SAHI is optional: pip install sahi")


@pytest.fixture
def SahiModel(sahi):
    return importlib.import_module("retinanet.inference.sahi_model").SahiModel


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network with random weights that detects objects everywhere; its stored thresholds reject all of them."""
    folder = CheckpointFolder(tmp_path_factory.mktemp("run") / "checkpoints", keep=1)
    return folder.save(detector(thresholds=(0.99, 0.99, 0.99)))


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return Predictor.from_checkpoint(checkpoint, use_thresholds=False)


@pytest.fixture(scope="module")
def tiles():
    """Parts of four images of the shapes dataset, (200, 200, 3) uint8."""
    return [np.ascontiguousarray(draw_image(0, "val", index)[0][:SIDE, :SIDE]) for index in range(4)]


@pytest.fixture(scope="module")
def image(tiles):
    return np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])])


@pytest.fixture(scope="module")
def threshold(predictor, tiles):
    """A score that some of the detections in the tiles exceed."""
    return float(np.median(np.concatenate([found.scores for found in predictor(tiles)])))


def expected_of(detections, threshold, corner=(0, 0)):
    """The objects above a threshold as tuples (category id, name, score, box), with boxes moved by a corner."""
    x, y = corner
    return [
        (CATEGORY_IDS[label], NAMES[label], score, (x1 + x, y1 + y, x2 + x, y2 + y))
        for (x1, y1, x2, y2), score, label in zip(
            detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
        )
        if score > threshold
    ]


def found_in(result):
    return [
        (found.category.id, found.category.name, found.score.value, tuple(found.bbox.to_xyxy()))
        for found in result.object_prediction_list
    ]


def sliced(sahi, image, model, **options):
    """Predict without overlap. NMS at an IoU above that of the predictor's NMS removes nothing."""
    no_overlap = {"overlap_height_ratio": 0, "overlap_width_ratio": 0, "perform_standard_pred": False, "verbose": 0}
    nms = {"postprocess_type": "NMS", "postprocess_match_metric": "IOU", "postprocess_match_threshold": 0.6}
    return sahi.get_sliced_prediction(image, model, slice_height=SIDE, slice_width=SIDE, **no_overlap, **nms, **options)


@pytest.mark.parametrize("batch_size", [1, 3])  # 3: the last batch has one slice
def test_objects_in_slices_are_those_of_the_tiles_shifted(
    sahi, SahiModel, checkpoint, predictor, tiles, image, threshold, batch_size
):
    of_tiles = predictor.predict(tiles, batch_size=batch_size)
    expected = [expected_of(of_tile, threshold, corner) for of_tile, corner in zip(of_tiles, CORNERS, strict=True)]
    assert all(expected)
    model = SahiModel(checkpoint, confidence_threshold=threshold)
    found = found_in(sliced(sahi, image, model, batch_size=batch_size))
    assert sorted(found) == sorted([one for of_tile in expected for one in of_tile])


def test_whole_image_has_the_detections_of_the_predictor(
    sahi, SahiModel, checkpoint, predictor, image, threshold, tmp_path
):
    model = SahiModel(checkpoint, confidence_threshold=threshold)
    found = found_in(sahi.get_prediction(image, model))
    assert found == expected_of(predictor(image), threshold) != []
    Image.fromarray(image).save(tmp_path / "image.png")
    assert found_in(sahi.get_prediction(str(tmp_path / "image.png"), model)) == found
    # A threshold for one call.
    assert found_in(sahi.get_prediction(image, model, confidence_threshold=1.0)) == []
    assert found_in(sahi.get_prediction(image, model)) == found


def test_published_folder_has_the_same_objects(sahi, SahiModel, checkpoint, image, tmp_path):
    folder = published(tmp_path / "model")
    found = [found_in(sahi.get_prediction(image, SahiModel(path))) for path in (checkpoint, folder)]
    assert found[0] == found[1] != []


def test_categories_are_those_of_the_training_annotations(sahi, SahiModel, checkpoint, image):
    assert SahiModel(checkpoint).category_mapping == {"3": "one", "5": "two", "9": "three"}
    results = sahi.get_prediction(image, SahiModel(checkpoint)).to_coco_predictions(image_id=1)
    found = {(result["category_id"], result["category_name"]) for result in results}
    assert found and found <= {(3, "one"), (5, "two"), (9, "three")}


def test_one_shift_applies_to_all_images(SahiModel, checkpoint, predictor, tiles):
    model = SahiModel(checkpoint, confidence_threshold=0)
    model.perform_batch_inference(tiles[:2])
    model.convert_original_predictions()
    per_image = model.object_prediction_list_per_image
    assert [len(of_image) for of_image in per_image] == [len(of_tile) for of_tile in predictor(tiles[:2])]
    model.perform_batch_inference([])
    model.convert_original_predictions()
    assert model.object_prediction_list_per_image == []


def test_overrides_and_device_are_those_of_the_predictor(SahiModel, checkpoint, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    model = SahiModel(checkpoint, "postprocess.max_detections=7", device="cpu")
    assert model.model.cfg.postprocess.max_detections == 7 and model.model.cfg.device == "cpu"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    model.unload_model()
    assert model.model is None
    model.load_model()
    assert model.model.cfg.postprocess.max_detections == 7


def test_threshold_below_the_minimum_score_is_reported(SahiModel, checkpoint, caplog):
    SahiModel(checkpoint, confidence_threshold=0.01)
    assert "postprocess.min_score is 0.05, so there are no detections with a score from 0.01 to 0.05" in caplog.text
    caplog.clear()
    SahiModel(checkpoint, "postprocess.min_score=0.01", confidence_threshold=0.01)
    assert "min_score" not in caplog.text


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan"), 50])
def test_threshold_outside_0_to_1_is_rejected(SahiModel, checkpoint, threshold):
    with pytest.raises(InputError, match=r"confidence_threshold: found .*, expected a number from 0 to 1"):
        SahiModel(checkpoint, confidence_threshold=threshold)


def test_grey_image_and_missing_checkpoint_are_input_errors(sahi, SahiModel, checkpoint, tmp_path):
    with pytest.raises(InputError, match=r"expected RGB uint8 \(H, W, 3\)"):
        sahi.get_prediction(np.zeros((50, 60), dtype=np.uint8), SahiModel(checkpoint))
    with pytest.raises(InputError, match="no such checkpoint"):
        SahiModel(tmp_path / "none.pt")


def test_missing_sahi_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sahi.models.base", None)  # importing it raises ModuleNotFoundError
    monkeypatch.delitem(sys.modules, "retinanet.inference.sahi_model", raising=False)
    with pytest.raises(ImportError, match="SahiModel needs the package sahi: pip install sahi"):
        importlib.import_module("retinanet.inference.sahi_model")
