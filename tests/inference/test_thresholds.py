"""Stored score thresholds decide which detections the predictor returns, unless a setting overrides them."""

import json

import pytest
import torch
from torchvision.io import write_png

from retinanet.checkpoint.file import Checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.checkpoint.save import store_thresholds
from retinanet.cli.predict import main as predict
from retinanet.errors import InputError
from retinanet.formats.images.reader import read_image
from retinanet.inference.predictor import Predictor
from retinanet.inference.thresholds import DEFAULT_THRESHOLD, above_thresholds, completed
from retinanet.model.retinanet import build_model
from retinanet.structures import Detections
from retinanet.visualization.draw import draw_detections
from tests.helpers.checkpoints import overdetecting_config

pytestmark = pytest.mark.usefixtures("restore_process_settings")


@pytest.fixture(scope="module")
def image():
    return torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A checkpoint without thresholds of a network that detects objects everywhere, with an average of its weights."""
    torch.manual_seed(0)
    cfg = overdetecting_config()
    model, average = (build_model(cfg.model, 2).state_dict() for _ in range(2))
    checkpoint = Checkpoint(cfg, ("one", "two"), (3, 5), 1, {"model": model, "ema": {"model": average}})
    return CheckpointFolder(tmp_path_factory.mktemp("run") / "checkpoints", keep=1).save(checkpoint)


@pytest.fixture
def thresholded(plain, image, tmp_path):
    """The same checkpoint with thresholds that a part of the detections of each class exceeds."""
    found = Predictor.from_checkpoint(plain)(image)
    middle = [found.scores[found.labels == label].median().item() for label in (0, 1)]
    copy = tmp_path / "stored.pt"
    copy.write_bytes(plain.read_bytes())
    store_thresholds(copy, middle)
    return copy, middle


def test_only_scores_above_the_threshold_of_the_class_are_kept():
    detections = Detections(torch.zeros(4, 4), torch.tensor([0.75, 0.5, 0.5, 0.25]), torch.tensor([0, 0, 1, 1]))
    kept = above_thresholds(detections, [0.5, 0.25])
    assert kept.scores.tolist() == [0.75, 0.5] and kept.labels.tolist() == [0, 1]


def test_class_that_could_not_be_measured_has_the_default():
    assert completed([0.75, None]) == (0.75, 0.3)


def test_predictor_uses_stored_thresholds(plain, thresholded, image, caplog):
    path, thresholds = thresholded
    everything = Predictor.from_checkpoint(plain)(image)
    with caplog.at_level("INFO", "retinanet"):
        predictor = Predictor.from_checkpoint(path)
    assert caplog.text.count("using the score threshold of each class stored in the checkpoint") == 1
    expected = everything[everything.scores > torch.tensor(thresholds)[everything.labels]]
    found = predictor(image)
    assert 0 < len(found) < len(everything)
    assert torch.equal(found.scores, expected.scores) and torch.equal(found.labels, expected.labels)


@pytest.mark.parametrize("override", ["postprocess.min_score=0.05", "postprocess={min_score: 0.05}"])
def test_min_score_in_an_override_replaces_stored_thresholds(plain, thresholded, image, override):
    predictor = Predictor.from_checkpoint(thresholded[0], [override])
    assert predictor.thresholds is None
    assert torch.equal(predictor(image).scores, Predictor.from_checkpoint(plain)(image).scores)


def test_other_overrides_keep_stored_thresholds(thresholded):
    assert Predictor.from_checkpoint(thresholded[0], ["postprocess.nms_iou=0.6"]).thresholds
    assert Predictor.from_checkpoint(thresholded[0], "postprocess.nms_iou=0.6").thresholds
    assert Predictor.from_checkpoint(thresholded[0], use_thresholds=False).thresholds is None


def test_predict_counts_what_exceeds_the_thresholds_unless_min_score_is_given(
    plain, thresholded, image, tmp_path, capsys
):
    write_png(image, str(tmp_path / "a.png"))
    expected = len(Predictor.from_checkpoint(thresholded[0])(image))
    arguments = [str(thresholded[0]), str(tmp_path / "a.png"), "--output", str(tmp_path / "out")]
    assert predict(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.count("using the score threshold of each class") == 1
    assert f"{expected} objects with a score above the threshold of its class in 1 image:" in printed
    document = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(document["annotations"]) == expected
    assert document["info"]["thresholds"] == dict(zip(("one", "two"), thresholded[1], strict=True))
    everything = Predictor.from_checkpoint(plain)(image)
    assert predict([*arguments, "--min-score", "0.5", "--overwrite"]) == 0
    printed = capsys.readouterr().out
    assert "threshold" not in printed and "with a score of at least 0.5 in 1 image:" in printed
    document = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(document["annotations"]) == int((everything.scores >= 0.5).sum())


@pytest.mark.parametrize(
    ("arguments", "counted"),
    [
        ([], "2 objects with a score above the threshold of its class"),  # also below the default threshold
        (["--min-score", "0.5"], "1 object with a score of at least 0.5"),
    ],
)
def test_predict_counts_what_it_draws(thresholded, image, tmp_path, monkeypatch, capsys, arguments, counted):
    boxes, labels = torch.tensor([[10.0, 10, 40, 40], [50, 20, 90, 80]]), torch.tensor([0, 1])
    detections = Detections(boxes, torch.tensor([0.9, DEFAULT_THRESHOLD - 0.1]), labels, ("one", "two"))
    monkeypatch.setattr(Predictor, "predict", lambda self, images, *, batch_size: iter([detections]))
    write_png(image, str(tmp_path / "a.png"))
    output = tmp_path / "out"
    assert predict([str(thresholded[0]), str(tmp_path / "a.png"), "--output", str(output), *arguments]) == 0
    assert counted in capsys.readouterr().out
    drawn = draw_detections(image, detections[: int(counted[0])], min_score=0)
    assert torch.equal(read_image(output / "a.png", max_pixels=10**6), drawn)


def test_min_score_below_that_of_postprocessing_is_noted(plain, image, tmp_path, capsys):
    write_png(image, str(tmp_path / "a.png"))
    arguments = [str(plain), str(tmp_path / "a.png"), "--output", str(tmp_path / "out")]
    assert predict([*arguments, "--min-score", "0.01"]) == 0
    assert (
        "note: postprocess.min_score is 0.05, so there are no detections with a score from 0.01 to 0.05; to get them, "
        "add postprocess.min_score=0.01\n"
    ) in capsys.readouterr().out
    assert predict([*arguments, "--min-score", "0.01", "--set", "postprocess.min_score=0.01", "--overwrite"]) == 0
    assert "note:" not in capsys.readouterr().out


def test_weights_of_the_last_step_or_their_average(plain, image):
    average, last = (Predictor.from_checkpoint(plain, weights=weights)(image) for weights in ("average", "last"))
    assert torch.equal(Predictor.from_checkpoint(plain)(image).scores, average.scores)
    assert not torch.equal(average.scores, last.scores)


def test_checkpoint_without_an_average_is_reported(plain, tmp_path):
    from retinanet.checkpoint.file import read_checkpoint, write_checkpoint

    checkpoint = read_checkpoint(plain)
    write_checkpoint(tmp_path / "a.pt", checkpoint._replace(state={"model": checkpoint.state["model"], "ema": None}))
    with pytest.raises(InputError, match=r"a\.pt: has no average of the weights"):
        Predictor.from_checkpoint(tmp_path / "a.pt", weights="average")
    Predictor.from_checkpoint(tmp_path / "a.pt", weights="last")
