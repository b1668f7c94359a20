"""Predictions on videos: tables and drawn videos, continued predictions, and damaged files."""

import csv
import json
import os

import numpy as np
import pytest
from pycocotools.coco import COCO

from retinanet import Predictor, open_video, predict
from retinanet.errors import InputError
from retinanet.prediction.journal import Journal
from retinanet.prediction.run import PredictionInterrupted
from retinanet.prediction.videos import VideoRun
from retinanet.prediction.writers import video
from tests.helpers.predictions import contents, save_overdetecting_checkpoint, write_noise_images
from tests.helpers.videos import CLOCKWISE, cut, needs_pyav, noise_frames, rotate, write_video

pytestmark = needs_pyav
MIN_SCORE = 0.52


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_overdetecting_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints")


@pytest.fixture
def inputs(tmp_path):
    """An image and two videos, the second one lossless."""
    folder = write_noise_images(tmp_path / "in", ["b.png"])
    write_video(folder / "a.mp4", noise_frames(5), options={"movflags": "faststart"})
    write_video(folder / "Größe.mkv", noise_frames(3, height=60, width=80), codec="ffv1", pixels="bgr0")
    return folder


@pytest.fixture
def run_predict(checkpoint, inputs, tmp_path):
    """Predict on the folder of inputs, into the folder `out`, or with other arguments."""

    def run(*, inputs=inputs, output=tmp_path / "out", overrides=(), **options):
        return predict(checkpoint, inputs, output, overrides, **{"min_score": MIN_SCORE, "batch_size": 2} | options)

    return run


@pytest.fixture
def stop_after(monkeypatch):
    """Make a prediction stop with Ctrl-C after some batches of frames."""

    def stop(batches):
        remaining, original = [batches], VideoRun._detected

        def stopping(self, file, batch):
            if remaining[0] == 0:
                raise KeyboardInterrupt
            remaining[0] -= 1
            return original(self, file, batch)

        monkeypatch.setattr(VideoRun, "_detected", stopping)

    return stop


def test_all_files_agree_with_the_predictor(run_predict, checkpoint, inputs, tmp_path):
    result = run_predict(crops=True, yolo=True)
    assert (result.num_images, result.num_videos, result.num_frames, result.failures) == (1, 2, 8, [])
    document = COCO(str(tmp_path / "out" / "detections.json"))
    assert document.dataset["videos"] == [
        {"id": 1, "name": "Größe.mkv", "height": 60, "width": 80},
        {"id": 2, "name": "a.mp4", "height": 48, "width": 64},
    ]
    image, *frames = document.dataset["images"]
    assert image == {"id": 1, "file_name": "b.png", "height": 60, "width": 80}
    assert [frame["id"] for frame in frames] == list(range(2, 10))
    rows = list(csv.DictReader((tmp_path / "out" / "detections.csv").open(encoding="utf-8")))
    counts = list(csv.DictReader((tmp_path / "out" / "counts.csv").open(encoding="utf-8")))
    assert counts[0]["image_path"] == "b.png" and counts[0]["video"] == counts[0]["frame"] == counts[0]["time_s"] == ""
    predictor = Predictor.from_checkpoint(checkpoint)
    expected = [
        (video_id, name, frame, detections[detections.scores >= MIN_SCORE])
        for video_id, name in ((1, "Größe.mkv"), (2, "a.mp4"))
        for frame, detections in zip(
            open_video(inputs / name), predictor.predict(open_video(inputs / name), batch_size=2), strict=True
        )
    ]
    total = 0
    for entry, count, (video_id, name, frame, found) in zip(frames, counts[1:], expected, strict=False):
        stem = f"{name[:-4]}/{frame.number:06}"
        assert entry["file_name"] == f"{stem}.png"
        assert (entry["video_id"], entry["frame_id"], entry["time_s"]) == (video_id, frame.number, frame.time)
        annotations = document.imgToAnns[entry["id"]]
        assert [annotation["score"] for annotation in annotations] == found.scores.tolist()
        of_frame = [row for row in rows if row["image_path"] == f"{stem}.png"]
        assert [float(row["xmax"]) for row in of_frame] == found.boxes[:, 2].tolist()
        assert {(row["video"], row["frame"], row["time_s"]) for row in of_frame} <= {
            (name, str(frame.number), str(frame.time))
        }
        assert (count["video"], count["frame"], int(count["all classes"])) == (name, str(frame.number), len(found))
        assert len((tmp_path / "out" / "labels" / f"{stem}.txt").read_text().splitlines()) == len(found)
        assert len(list((tmp_path / "out" / "crops").glob(f"*/{stem}_*.png"))) == len(found)
        total += len(found)
    assert total > 0


def test_drawn_videos_show_the_frames_at_their_times(run_predict, tmp_path):
    times = [0, 40, 50, 400, 1000]
    colors = [np.full((47, 63, 3), 50 * number, dtype=np.uint8) for number in range(5)]
    write_video(tmp_path / "a.mkv", colors, codec="ffv1", pixels="bgr0", times=times)
    file = tmp_path / "a.mkv"
    assert run_predict(inputs=file, min_score=1.0).num_objects == 0
    drawn = list(open_video(tmp_path / "out" / "a.mp4"))
    assert [frame.time for frame in drawn] == [frame.time for frame in open_video(file)]
    for frame, color in zip(drawn, colors, strict=True):
        assert frame.image.shape == (3, 48, 64)  # H.264 needs even sizes
        assert np.abs(frame.image.permute(1, 2, 0).numpy().astype(int)[:47, :63] - color).max() <= 4


def test_drawn_videos_have_boxes_where_objects_are_and_are_upright(run_predict, tmp_path):
    file = write_video(tmp_path / "a.mp4", [np.full((48, 64, 3), 90, dtype=np.uint8)] * 2)
    rotate(file, CLOCKWISE)
    assert run_predict(inputs=file, labels=False, min_score=0.1).num_objects > 0
    (image, *_) = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]
    assert (image["height"], image["width"]) == (64, 48)
    plain, drawn = next(iter(open_video(file))).image, next(iter(open_video(tmp_path / "out" / "a.mp4"))).image
    assert drawn.shape == (3, 64, 48)
    assert (drawn.int() - plain.int()).abs().amax() > 60


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_a_continued_prediction_writes_the_same_bytes_and_repeats_nothing(
    run_predict, stop_after, monkeypatch, tmp_path, batches
):
    options = {"crops": True, "yolo": True}
    run_predict(output=tmp_path / "undisturbed", **options)
    stop_after(batches)
    done = min(2 * batches, 3 + 2 * max(0, batches - 2))
    with pytest.raises(PredictionInterrupted, match=f"interrupted after 1 of 1 image and {done} frames"):
        run_predict(**options)
    document = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(document["images"]) == 1 + done
    monkeypatch.undo()
    assert run_predict(**options).num_reused == 1 + done
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
    journal = Journal(tmp_path / "out")
    for path, number in ((tmp_path / "in" / "a.mp4", 5), (tmp_path / "in" / "Größe.mkv", 3)):
        frames = [frame["frame"] for part in journal.parts(str(path)) for frame in part["frames"]]
        assert frames == list(range(number))
    journal.close()


def test_a_video_that_changes_while_it_is_read_is_read_again(run_predict, inputs, monkeypatch):
    file, original = inputs / "a.mp4", VideoRun._detected

    def changing(self, video, batch):
        os.utime(file, (0, 0))
        return original(self, video, batch)

    monkeypatch.setattr(VideoRun, "_detected", changing)
    run_predict(inputs=file)
    monkeypatch.undo()
    assert [run_predict(inputs=file).num_reused for _ in range(2)] == [0, 5]


def test_nothing_is_detected_or_drawn_again(run_predict, monkeypatch, tmp_path):
    run_predict()
    before = contents(tmp_path / "out")
    monkeypatch.setattr(VideoRun, "_detect", None)
    monkeypatch.setattr(VideoRun, "_opened", None)
    assert run_predict().num_reused == 9
    assert contents(tmp_path / "out") == before
    monkeypatch.undo()
    monkeypatch.setattr(VideoRun, "_detect", None)
    (tmp_path / "out" / "a.mp4").unlink()  # drawn again from the recorded detections
    run_predict()
    assert contents(tmp_path / "out") == before


def test_a_truncated_video_keeps_its_frames_and_affects_no_other_input(run_predict, inputs, tmp_path):
    file = inputs / "a.mp4"
    (inputs / "Größe.mkv").unlink()
    write_video(file, noise_frames(24), codec="mpeg4", options={"movflags": "faststart"})
    intact = file.read_bytes()
    cut(file, 0.5)
    result = run_predict()
    assert (result.num_images, result.num_videos) == (1, 1)
    (failure,) = result.failures
    number = result.num_frames
    assert failure.name == "a.mp4" and f"truncated after {number} frames" in failure.reason and 2 < number < 20
    document = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert document["info"]["failed"] == [{"file_name": "a.mp4", "reason": failure.reason}]
    assert len(document["images"]) == 1 + number
    assert len(list(open_video(tmp_path / "out" / "a.mp4"))) == number
    before = contents(tmp_path / "out")
    again = run_predict()  # reads the rest again, and detects nothing twice
    assert again.failures == result.failures and again.num_reused == 1 + number
    assert contents(tmp_path / "out") == before
    file.write_bytes(intact)
    result = run_predict()
    assert (result.num_frames, result.failures, result.num_reused) == (24, [], 1)
    assert len(list(open_video(tmp_path / "out" / "a.mp4"))) == 24
    run_predict(output=tmp_path / "undisturbed")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_a_video_without_any_frame_is_a_failure(run_predict, inputs, tmp_path):
    (inputs / "a.mp4").write_bytes(b"hello")
    result = run_predict()
    assert (result.num_videos, result.num_frames) == (1, 3)
    assert [failure.name for failure in result.failures] == ["a.mp4"]
    assert not (tmp_path / "out" / "a.mp4").exists()


def test_a_video_that_cannot_be_drawn_keeps_its_results_and_costs_no_other_input(run_predict, monkeypatch, tmp_path):
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(video, "OPTIONS", {"preset": "none of those that x264 has"})
            result = run_predict()
        assert (result.num_images, result.num_videos, result.num_frames) == (1, 2, 8)
        assert [failure.name for failure in result.failures] == ["Größe.mkv", "a.mp4"]
        assert "cannot be encoded as H.264" in result.failures[0].reason
    assert set(contents(tmp_path / "out")) == {"b.png", "counts.csv", "detections.csv", "detections.json"}
    result = run_predict()
    assert (result.num_reused, result.failures) == (9, [])
    run_predict(output=tmp_path / "undisturbed")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_files_of_frames_that_a_changed_video_no_longer_has_are_removed(run_predict, inputs, tmp_path):
    run_predict(crops=True, yolo=True)
    write_video(inputs / "a.mp4", noise_frames(2, seed=1))
    run_predict(crops=True, yolo=True)
    run_predict(output=tmp_path / "undisturbed", crops=True, yolo=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_frames_per_second_is_a_setting(run_predict, inputs, tmp_path):
    assert run_predict(inputs=inputs / "a.mp4", frames_per_second=10).num_frames == 2  # frames 0 and 3
    drawn = list(open_video(tmp_path / "out" / "a.mp4"))
    assert [frame.time for frame in drawn] == [0, 0.12]
    with pytest.raises(InputError, match=r"frames per second: 10, now None"):
        run_predict(inputs=inputs / "a.mp4")


def test_without_drawing_no_video_is_written_or_removed(run_predict, inputs, tmp_path):
    run_predict(draw=False)
    assert set(contents(tmp_path / "out")) == {"counts.csv", "detections.csv", "detections.json"}
    (tmp_path / "out" / "a.mp4").write_text("mine")
    write_video(inputs / "a.mp4", noise_frames(2, seed=1))
    assert run_predict(draw=False).num_frames == 5
    assert (tmp_path / "out" / "a.mp4").read_text() == "mine"


def test_overwriting_removes_only_our_files(run_predict, inputs, tmp_path):
    run_predict(crops=True, yolo=True)
    (tmp_path / "out" / "labels" / "a" / "mine.txt").write_text("mine")
    run_predict(inputs=inputs / "b.png", overwrite=True)
    tables = {"counts.csv", "detections.csv", "detections.json"}
    assert set(contents(tmp_path / "out")) == {*tables, "b.png", "labels/a/mine.txt"}


@pytest.mark.parametrize("name", ["a.mp4", "labels/a/000000.txt"])
def test_files_that_no_prediction_wrote_are_protected(run_predict, tmp_path, name):
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(InputError, match="already exists and was not written by"):
        run_predict(yolo=True, overwrite=True)
    assert contents(tmp_path / "out") == {name: b"mine"}


def test_drawn_videos_in_the_folder_of_the_inputs(run_predict, inputs):
    with pytest.raises(InputError, match=r"a\.mp4: is one of the videos to predict on"):
        run_predict(output=inputs, image_format="jpg")
    (inputs / "a.mp4").rename(inputs / "a.mov")
    for _ in range(2):  # drawn videos do not become inputs
        assert run_predict(output=inputs, image_format="jpg").num_videos == 2


def test_a_checkpoint_for_other_images_fails_only_on_videos(run_predict):
    result = run_predict(overrides=["data.bands=[3,2,1]"])
    assert (result.num_images, result.num_videos) == (1, 0)
    assert all("whose frames are RGB" in failure.reason for failure in result.failures)


def test_a_missing_package_is_reported_before_anything_is_written(run_predict, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'mkv: is a video.*pip install "retinanet\[video\]"'):
        run_predict()
    assert not (tmp_path / "out").exists()


def test_a_missing_encoder_is_reported_before_earlier_results_are_discarded(run_predict, tmp_path, monkeypatch):
    run_predict()
    before = contents(tmp_path / "out")
    monkeypatch.setattr("av.codecs_available", {"ffv1"})
    with pytest.raises(InputError, match=r"needs the encoder libx264, .* or add --no-draw"):
        run_predict(overwrite=True)
    assert contents(tmp_path / "out") == before
