"""Predictions into a folder: what is written, reused and protected."""

import csv
import json
import os
import shutil

import pytest
import torch
from pycocotools.coco import COCO

from retinanet import Predictor, predict
from retinanet.errors import InputError
from retinanet.formats.images.reader import read_image
from retinanet.prediction import run
from retinanet.prediction.journal import JOURNAL_FILE, Journal
from retinanet.prediction.run import PredictionInterrupted, Run
from retinanet.runtime.lock import try_lock
from tests.helpers.predictions import CLASS_NAMES, contents, save_overdetecting_checkpoint, write_noise_images

MIN_SCORE = 0.52
NAMES = ["a.png", "b.png", "c.png", "d.png", "e.png", "sub/f.png"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_overdetecting_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints")


@pytest.fixture
def images(tmp_path):
    return write_noise_images(tmp_path / "images", NAMES)


@pytest.fixture
def run_predict(checkpoint, images, tmp_path):
    """Predict on the six images into the folder `out`, or with other arguments."""

    def run(*, inputs=images, output=tmp_path / "out", overrides=(), **options):
        options = {"min_score": MIN_SCORE, "recursive": True, "batch_size": 2} | options
        return predict(checkpoint, inputs, output, overrides, **options)

    return run


@pytest.fixture
def stop_after(monkeypatch):
    """Make a prediction stop with an exception after some batches."""

    def stop(batches, error):
        remaining, original = [batches], Run._predict

        def stopping(self, batch, batch_size):
            if remaining[0] == 0:
                raise error
            remaining[0] -= 1
            original(self, batch, batch_size)

        monkeypatch.setattr(Run, "_predict", stopping)

    yield stop


def test_all_files_agree_with_the_predictor(run_predict, checkpoint, images, tmp_path):
    result = run_predict(crops=True, yolo=True)
    predictor = Predictor.from_checkpoint(checkpoint)
    document = COCO(str(tmp_path / "out" / "detections.json"))
    assert {image["file_name"] for image in document.dataset["images"]} == set(NAMES)
    counts = list(csv.DictReader((tmp_path / "out" / "counts.csv").open(encoding="utf-8")))
    rows = list(csv.DictReader((tmp_path / "out" / "detections.csv").open(encoding="utf-8")))
    total = 0
    for image, count in zip(document.dataset["images"], counts, strict=False):
        found = predictor(images / image["file_name"])
        found = found[found.scores >= MIN_SCORE]
        annotations = document.imgToAnns[image["id"]]
        expected = torch.tensor([annotation["bbox"] for annotation in annotations]).reshape(-1, 4)
        expected[:, 2:] += expected[:, :2]
        torch.testing.assert_close(found.boxes, expected, rtol=1e-3, atol=1e-2)
        names = [CLASS_NAMES[label] for label in found.labels.tolist()]
        assert [annotation["category_name"] for annotation in annotations] == names
        assert [row["label"] for row in rows if row["image_path"] == image["file_name"]] == names
        assert int(count["all classes"]) == len(found) and int(count["Größe"]) == names.count("Größe")
        stem = image["file_name"].removesuffix(".png")
        labels = (tmp_path / "out" / "labels" / f"{stem}.txt").read_text().splitlines()
        assert [int(line.split()[0]) for line in labels] == found.labels.tolist()
        drawn = read_image(tmp_path / "out" / f"{stem}.png", max_pixels=10**6)
        assert drawn.shape == read_image(images / image["file_name"], max_pixels=10**6).shape
        crops = list((tmp_path / "out" / "crops").rglob(f"{stem.rpartition('/')[2]}_*.png"))
        assert len(crops) == len(found)
        total += len(found)
    assert total > 0 and result.num_objects == total == len(rows) == int(counts[-2]["all classes"])
    assert counts[-2]["image_path"] == "all images"
    assert counts[-1] == {"image_path": "score threshold", **dict.fromkeys(CLASS_NAMES, "0.52"), "all classes": ""}
    assert document.dataset["info"]["thresholds"] == dict.fromkeys(CLASS_NAMES, MIN_SCORE) == result.thresholds
    assert {float(row["threshold"]) for row in rows} == {MIN_SCORE}


@pytest.mark.parametrize("batches", [0, 1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("CUDA error")])
def test_a_continued_prediction_writes_the_same_bytes(run_predict, stop_after, monkeypatch, tmp_path, batches, error):
    run_predict(output=tmp_path / "undisturbed", crops=True, yolo=True)
    with monkeypatch.context():
        stop_after(batches, error)
        with pytest.raises((PredictionInterrupted, RuntimeError)):
            run_predict(crops=True, yolo=True)
        images = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]
        assert len(images) == 2 * batches  # what was found before is in the files already
    monkeypatch.undo()
    assert run_predict(crops=True, yolo=True).num_reused == 2 * batches
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_interruption_reports_the_number_of_finished_images(run_predict, stop_after):
    stop_after(1, KeyboardInterrupt())
    with pytest.raises(PredictionInterrupted, match="interrupted after 2 of 6 images"):
        run_predict()


def test_nothing_is_predicted_again(run_predict, monkeypatch, tmp_path):
    run_predict()
    before = contents(tmp_path / "out")
    monkeypatch.setattr(Run, "_predict", None)
    assert run_predict().num_reused == 6
    assert contents(tmp_path / "out") == before


def test_outputs_from_recorded_results_need_no_new_prediction(run_predict, monkeypatch, tmp_path):
    run_predict()
    monkeypatch.setattr(Run, "_predict", None)
    run_predict(yolo=True)
    assert len(list((tmp_path / "out" / "labels").rglob("*.txt"))) == 6


def test_a_damaged_image_does_not_affect_others_and_is_tried_again(run_predict, images, tmp_path):
    intact = (images / "c.png").read_bytes()
    (images / "c.png").write_bytes(intact[:500])
    result = run_predict()
    assert (result.num_images, [failure.name for failure in result.failures]) == (5, ["c.png"])
    assert str(images / "c.png") in result.failures[0].reason
    document = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [failure["file_name"] for failure in document["info"]["failed"]] == ["c.png"]
    assert [image["file_name"] for image in document["images"]] == [name for name in NAMES if name != "c.png"]
    assert len(run_predict().failures) == 1
    (images / "c.png").write_bytes(intact)
    result = run_predict()
    assert (result.num_reused, result.num_images, result.failures) == (5, 6, [])
    assert (tmp_path / "out" / "c.png").exists()


def test_images_without_objects_are_in_the_results(run_predict, tmp_path):
    assert run_predict(min_score=1.0, yolo=True).num_objects == 0
    document = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(document["images"]) == 6 and document["annotations"] == []
    assert {file.read_text() for file in (tmp_path / "out" / "labels").rglob("*.txt")} == {""}
    assert len((tmp_path / "out" / "counts.csv").read_text().splitlines()) == 1 + 6 + 2


def test_images_added_changed_and_removed(run_predict, images, tmp_path, caplog):
    (images / "bad.png").write_bytes(b"hello")  # never read, so it is not among the results that are noted
    run_predict()
    for name in ("a.png", "bad.png"):
        (images / name).unlink()
    shutil.copy(images / "b.png", images / "c.png")
    write_noise_images(images, ["z.png"])
    with caplog.at_level("INFO", "retinanet"):
        result = run_predict()
    assert (result.num_images, result.num_reused) == (6, 4)
    assert "also has results of images or videos that are not among the inputs (1)" in caplog.text
    run_predict(output=tmp_path / "undisturbed", batch_size=1)
    found, expected = (json.loads((tmp_path / name / "detections.json").read_text()) for name in ("out", "undisturbed"))
    assert found["images"] == expected["images"] and len(found["annotations"]) == len(expected["annotations"])


def test_a_removed_drawn_image_is_drawn_again(run_predict, tmp_path):
    run_predict()
    before = (tmp_path / "out" / "b.png").read_bytes()
    (tmp_path / "out" / "b.png").unlink()
    (tmp_path / "out" / "d.png").write_bytes(b"")
    assert run_predict().num_reused == 4
    assert (tmp_path / "out" / "b.png").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_score": 0.5}, "score threshold: 0.52, now 0.5"),
        ({"overrides": ["postprocess.nms_iou=0.7"]}, "postprocess.nms_iou: 0.5, now 0.7"),
        ({"crops": True}, "crops: False, now True"),
    ],
)
def test_other_settings_are_rejected_unless_overwritten(run_predict, tmp_path, changes, message):
    run_predict()
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match="contains results with other settings") as error:
        run_predict(**changes)
    assert message in str(error.value) and "--overwrite" in str(error.value)
    assert contents(tmp_path / "out") == before
    assert run_predict(**changes, overwrite=True).num_reused == 0
    run_predict(output=tmp_path / "undisturbed", **changes)
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_another_checkpoint_is_rejected(run_predict, images, tmp_path):
    run_predict()
    other = save_overdetecting_checkpoint(tmp_path / "checkpoints", seed=1)
    with pytest.raises(InputError, match=r"contains results with other settings \(checkpoint\)"):
        predict(other, images, tmp_path / "out", min_score=MIN_SCORE, recursive=True)


def test_other_images_are_rejected_and_overwriting_removes_only_our_files(run_predict, tmp_path):
    run_predict(crops=True, yolo=True)
    other = write_noise_images(tmp_path / "other", ["g.png"])
    with pytest.raises(InputError, match="contains the results of 6 other images"):
        run_predict(inputs=other, crops=True, yolo=True)
    (tmp_path / "out" / "crops" / "mine.txt").write_text("mine")
    run_predict(inputs=other, overwrite=True)
    assert set(contents(tmp_path / "out")) == {
        *("counts.csv", "detections.csv", "detections.json", "g.png"),
        "crops/mine.txt",
    }


@pytest.mark.parametrize("name", ["a.png", "detections.json", "counts.csv", "crops", "classes.txt", "labels/a.txt"])
def test_files_that_no_prediction_wrote_are_protected(run_predict, tmp_path, name):
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(InputError, match=f"{name}: already exists and was not written by"):
        run_predict(crops=True, yolo=True, overwrite=True)
    assert contents(tmp_path / "out") == {name: b"mine"}


def test_predicting_into_the_folder_of_the_images(run_predict, images):
    before = contents(images)
    with pytest.raises(InputError, match=r"a\.png: is one of the images"):
        run_predict(output=images)
    for _ in range(2):  # drawn images do not become inputs
        result = run_predict(output=images, image_format="jpg", crops=True)
        assert (result.num_images, result.failures) == (6, [])
    after = contents(images)
    assert {name: after[name] for name in before} == before
    assert {"a.jpg", "sub/f.jpg", "detections.json"} <= set(after)


def test_image_that_would_be_drawn_into_the_folder_for_crops_is_rejected(run_predict, images):
    write_noise_images(images, ["crops/x.png"])
    with pytest.raises(InputError, match="would be in the folder for crops"):
        run_predict(crops=True)


def test_a_folder_in_use_is_rejected(run_predict, tmp_path):
    (tmp_path / "out").mkdir()
    with (
        try_lock(tmp_path / "out" / ".predict.lock"),
        pytest.raises(InputError, match="is predicting into this folder"),
    ):
        run_predict()


@pytest.mark.parametrize("score", [7, -0.1, float("nan")])
def test_min_score_outside_0_to_1_is_rejected(run_predict, tmp_path, score):
    with pytest.raises(InputError, match="expected a number from 0 to 1"):
        run_predict(min_score=score)
    assert not (tmp_path / "out").exists()


def test_no_inputs(run_predict):
    with pytest.raises(InputError, match="found no inputs"):
        run_predict(inputs=[])


def test_a_full_disk_is_reported_and_the_prediction_continues(run_predict, small_disk, images, tmp_path):
    write_noise_images(images, [f"{number}.png" for number in range(10)])
    filler = small_disk / "filler"
    filler.write_bytes(bytes(900_000))
    with pytest.raises(InputError, match="No space left on device"):
        run_predict(output=small_disk / "out")
    recorded = len(Journal(small_disk / "out"))
    assert recorded > 0
    filler.unlink()
    assert run_predict(output=small_disk / "out").num_reused == recorded
    run_predict(output=tmp_path / "undisturbed")
    assert contents(small_disk / "out") == contents(tmp_path / "undisturbed")


def test_without_drawn_images(run_predict, tmp_path):
    run_predict(draw=False)
    assert set(contents(tmp_path / "out")) == {"counts.csv", "detections.csv", "detections.json"}


def test_results_are_synchronised_before_the_end(run_predict, monkeypatch, tmp_path):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    run_predict()
    assert synced[-1] == (tmp_path / "out" / JOURNAL_FILE).stat().st_size


def test_batches_of_a_continued_prediction():
    assert list(run._batches([0, 1, 2, 3, 4], 2)) == [[0, 1], [2, 3], [4]]
    assert list(run._batches([1, 4, 5], 2)) == [[1], [4, 5]]
    assert list(run._batches([], 2)) == []
