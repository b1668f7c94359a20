"""Complete runs on images with 1, 4 and 5 channels, in one file or in several."""

import itertools
import json

import numpy as np
import pytest
import torch

from retinanet.checkpoint.file import read_checkpoint
from retinanet.cli.browse import main as browse
from retinanet.cli.eval import main as evaluate
from retinanet.cli.predict import main as predict
from retinanet.cli.train import main as train_command
from retinanet.config.load import load_config
from retinanet.data.build import load_train_data, load_val_data, train_loader
from retinanet.engine import train as module
from retinanet.engine.train import train
from retinanet.inference.predictor import Predictor
from tests.helpers.metrics import metrics_without_times
from tests.helpers.multiband import overrides_for, write_bands, write_pairs
from tests.helpers.states import assert_same_checkpoint

PAIRS = 'data.band_files=["rgb/{stem}.png", "thermal/{stem}.tif"]'


def write(folder, kind):
    """A dataset and the number of its channels and its overrides."""
    match kind:
        case "grey":
            return write_bands(folder, bands=1), 1, ()
        case "four bands":
            return write_bands(folder, bands=4), 4, ("data.transforms=[{type: mosaic}, {type: resize}, {type: erase}]",)
        case "five 16-bit bands":
            return write_bands(folder, bands=5, dtype="u2", high=10_000), 5, ()
        case _:
            return write_pairs(folder), 4, (PAIRS,)


@pytest.mark.parametrize(
    "kind",
    [
        "four bands",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("grey", "five 16-bit bands", "two files")),
    ],
)
def test_train_resume_evaluate_and_predict(tmp_path, monkeypatch, capsys, kind):
    source, channels, more = write(tmp_path / "set", kind)
    cfg = load_config("quickstart", overrides_for(source, channels, *more))
    straight = train(cfg, tmp_path / "straight")
    real = module.train_loader

    def two_batches(*arguments, **keywords):
        yield from itertools.islice(real(*arguments, **keywords), 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_loader", two_batches)
        with pytest.raises(KeyboardInterrupt):
            train(cfg, tmp_path / "resumed")
    resumed = train(cfg, tmp_path / "resumed", resume=True)
    assert metrics_without_times(resumed.folder) == metrics_without_times(straight.folder)
    last = read_checkpoint(straight.folder / "checkpoints/last.pt")
    assert_same_checkpoint(read_checkpoint(resumed.folder / "checkpoints/last.pt"), last)
    assert last.weights()["backbone.conv1.weight"].shape[1] == channels
    assert not torch.equal(last.weights()["backbone.conv1.weight"][:, -1], torch.zeros(()))

    assert evaluate([str(straight.folder)]) == 0
    predictor = Predictor.from_checkpoint(straight.folder / "checkpoints/last.pt", ["postprocess.min_score=0.0"])
    path = load_val_data(cfg, ("object",)).paths[0]
    pixels = predictor.read_image(path)
    assert pixels.shape[0] == channels
    from_file, from_tensor, from_array = predictor([path, pixels, pixels.permute(1, 2, 0).numpy()])
    assert len(from_file) > 0
    for other in (from_tensor, from_array):
        assert torch.equal(other.boxes, from_file.boxes) and torch.equal(other.scores, from_file.scores)

    folder = tmp_path / "set" / ("rgb" if kind == "two files" else "images")
    assert predict([str(straight.folder), str(folder), "--output", str(tmp_path / "drawn")]) == 0
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 8
    given = [override for override in more if override == PAIRS] + [f"model.in_channels={channels}"]
    given.append(f"data.train.images={source['images']}")
    assert browse([source["annotations"], *given, "--output", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("8 of 8 images")


def test_folder_with_all_files_of_the_images(tmp_path):
    """Only the first file of each image is predicted, and named in the results."""
    source, channels, _ = write(tmp_path / "set", "two files")
    images = tmp_path / "set"
    for file in list((images / "thermal").iterdir()):
        file.rename(images / "rgb" / f"{file.stem}_ir.tif")
    cfg = load_config("quickstart", overrides_for(source, channels, 'data.band_files=["{n}.png", "{n}_ir.tif"]'))
    run = train(cfg, tmp_path / "run").folder
    overrides = ["postprocess.min_score=0.0"]
    assert predict([str(run), str(images / "rgb"), "--output", str(tmp_path / "out"), *overrides]) == 0
    document = json.loads((tmp_path / "out/detections.json").read_text())
    assert [image["file_name"] for image in document["images"]] == [f"{n}.png" for n in range(8)]
    assert len(list((tmp_path / "out").glob("*.png"))) == 8


def test_training_without_statistics_stops_at_once(tmp_path, capsys):
    source = write_bands(tmp_path / "set", bands=4)
    given = [line for line in overrides_for(source, 4) if not line.startswith(("model.mean", "model.std"))]
    assert train_command(["quickstart", *given, "--output", str(tmp_path / "run")]) == 2
    assert "retinanet check DATA model.in_channels=4" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_fine_tuning_from_rgb_adapts_the_first_convolution(tmp_path):
    rgb = write_bands(tmp_path / "rgb", bands=3)
    first = train(load_config("quickstart", overrides_for(rgb, 3)), tmp_path / "first").folder / "checkpoints/last.pt"
    six = overrides_for(write_bands(tmp_path / "six", bands=6), 6, f"train.init_from={first}")
    frozen = ["train.steps=1", "train.save_every=1", "train.eval_every=1", "train.optimizer.lr=1e-30"]
    run = train(load_config("quickstart", [*six, *frozen]), tmp_path / "second").folder
    before, after = (read_checkpoint(path).weights(average=False) for path in (first, run / "checkpoints/last.pt"))
    start = read_checkpoint(first).weights()["backbone.conv1.weight"]
    assert before.keys() == after.keys()
    torch.testing.assert_close(after["backbone.conv1.weight"], start[:, [0, 1, 2, 0, 1, 2]] / 2)
    log = (run / "log.txt").read_text()
    assert "backbone.conv1.weight adapted from 3 to 6 channels" in log and "resnet10_half, 6 channel(s)" in log


def test_image_with_a_damaged_further_file_is_replaced(tmp_path):
    source, channels, more = write(tmp_path / "set", "two files")
    cfg = load_config("quickstart", overrides_for(source, channels, *more))
    (tmp_path / "set/thermal/3.tif").write_bytes(b"not an image")
    batches = list(train_loader(cfg, load_train_data(cfg), start=0, stop=2, pin_memory=False))  # one epoch
    (replaced,) = [entry for batch in batches for entry in batch.unreadable]
    assert replaced.index == 3 and str(tmp_path / "set/thermal/3.tif") in replaced.reason
    assert all(batch.images.shape[1] == 4 for batch in batches)


@pytest.mark.slow
def test_objects_that_only_the_fourth_band_shows_are_found(tmp_path):
    source = write_bands(tmp_path / "set", bands=4, count=16)
    cfg = load_config(
        "quickstart", overrides_for(source, 4, "train.steps=80", "train.eval_every=80", "train.save_every=80")
    )
    run = train(cfg, tmp_path / "run")
    assert metrics_without_times(run.folder)[-1]["AP50"] > 0.5
    predictor = Predictor.from_checkpoint(run.folder / "checkpoints/last.pt")
    paths = load_val_data(cfg, ("object",)).paths
    images = [predictor.read_image(path) for path in paths]
    blind = [image.clone() for image in images]
    for image in blind:
        image[3] = torch.from_numpy(np.random.default_rng(0).integers(0, 127, image[3].shape, dtype=np.uint8))
    best = [max((detections.scores.max().item() for detections in predictor(some) if len(detections)), default=0.0)
            for some in (images, blind)]  # fmt: skip
    assert best[0] > 0.3 and best[1] < 0.5 * best[0]
