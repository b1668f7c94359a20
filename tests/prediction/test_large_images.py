"""Predictions on TIFFs that are read in windows: the output files equal those of the decoded image."""

import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from PIL import Image

from retinanet import predict
from retinanet.formats.images.window_reader import open_windows
from retinanet.inference import predictor
from retinanet.prediction.run import PredictionInterrupted
from retinanet.prediction.writers import images
from tests.helpers.predictions import contents, save_overdetecting_checkpoint
from tests.helpers.tiff_files import tiff_of, tiff_of_one_tile

TILES = ["inference.tile.size=64"]


@pytest.fixture
def in_windows(monkeypatch):
    """Read all TIFFs in windows, even small ones."""
    monkeypatch.setattr(predictor, "open_windows", partial(open_windows, whole_pixels=0))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_overdetecting_checkpoint(tmp_path_factory.mktemp("checkpoints"))


def write_pair(folder, *, height=100, width=150):
    """Write the same image as a tiled TIFF, `windows/a.tif`, and as a PNG, `decoded/a.png`."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for name in ("windows", "decoded"):
        (folder / name).mkdir()
    (folder / "windows/a.tif").write_bytes(tiff_of(pixels, tile=(32, 48), deflate=True, photometric=2))
    Image.fromarray(pixels).save(folder / "decoded/a.png")


def test_all_files_are_those_of_the_decoded_image(checkpoint, tmp_path, in_windows):
    write_pair(tmp_path)
    options = {"crops": True, "yolo": True, "min_score": 0.405}
    for name in ("windows", "decoded"):
        result = predict(checkpoint, tmp_path / name, tmp_path / "out" / name, TILES, **options)
        assert result.num_images == 1 and result.num_objects > 0 and not result.failures
    found, expected = (contents(tmp_path / "out" / name) for name in ("windows", "decoded"))
    assert found.keys() == expected.keys() and len(found) > 6
    for name, content in found.items():
        assert content.replace(b"a.tif", b"a.png") == expected[name], name
    assert json.loads(found["detections.json"])["images"][0]["width"] == 150


def test_drawn_images_and_crops_have_a_limited_size(checkpoint, tmp_path, in_windows, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(images, "MAX_SIDE", 30)
    write_pair(tmp_path)
    for name, is_reduced in (("windows", True), ("decoded", False)):
        predict(checkpoint, tmp_path / name, tmp_path / "out" / name, TILES, crops=True, min_score=0.405)
        with Image.open(tmp_path / "out" / name / "a.png") as drawn:
            assert drawn.size == ((30, 20) if is_reduced else (150, 100))
        sizes = [Image.open(file).size for file in (tmp_path / "out" / name / "crops").rglob("*.png")]
        assert (max(max(size) for size in sizes) <= 30) == is_reduced
    assert caplog.text.count("a.png is drawn at 30 x 20 pixels") == 1


def test_damaged_tiles_are_a_failure_of_the_image(checkpoint, tmp_path, in_windows):
    write_pair(tmp_path)
    file = tmp_path / "windows/a.tif"
    file.write_bytes(file.read_bytes()[:-500])
    result = predict(checkpoint, [file, tmp_path / "decoded"], tmp_path / "out", TILES)
    assert result.num_images == 1
    assert [failure.name for failure in result.failures] == ["a.tif"]


def test_an_interruption_between_tiles_keeps_the_finished_images(checkpoint, tmp_path, in_windows, monkeypatch):
    write_pair(tmp_path)
    (tmp_path / "windows/b.tif").write_bytes((tmp_path / "windows/a.tif").read_bytes())
    detect = predictor.Predictor.detect_in

    def interrupted(self, image, *, batch_size, progress):
        if calls:
            progress = stop
        calls.append(image)
        return detect(self, image, batch_size=batch_size, progress=progress)

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    calls = []
    with monkeypatch.context() as patch, pytest.raises(PredictionInterrupted, match="after 1 of 2 images"):
        patch.setattr(predictor.Predictor, "detect_in", interrupted)
        predict(checkpoint, tmp_path / "windows", tmp_path / "out", TILES)
    assert len(calls) == 2
    assert predict(checkpoint, tmp_path / "windows", tmp_path / "out", TILES).num_reused == 1
    predict(checkpoint, tmp_path / "windows", tmp_path / "undisturbed", TILES)
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


MEASURED = """
import resource, sys
from retinanet.cli.predict import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


def peak_memory(checkpoint, file, output):
    """Peak memory of a process that predicts on an image, in bytes."""
    command = [sys.executable, "-c", MEASURED, str(checkpoint), str(file), "--output", str(output), "--jpeg"]
    command += ["--min-score=0.6", "inference.tile.size=2048", "inference.tile.overlap=0"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return 1024 * int(found.stdout.split("peak")[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss differs between systems")
def test_memory_does_not_grow_with_the_image(checkpoint, tmp_path):
    tile = np.broadcast_to((np.arange(1024) // 4).astype(np.uint8)[:, None], (1024, 1024, 3))
    peaks = {}
    for side in (10_000, 16_000):
        (tmp_path / f"{side}.tif").write_bytes(tiff_of_one_tile(tile, side))
        peaks[side] = peak_memory(checkpoint, tmp_path / f"{side}.tif", tmp_path / "out" / f"{side}")
    # Both fill the cache of 268 MB. Decoded at once, they would take 300 and 768 MB, and twice as much to draw them.
    assert peaks[16_000] - peaks[10_000] < 300_000_000
