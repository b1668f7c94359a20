"""Detection in images that are read in windows: equal to that in decoded images, with reduced whole images."""

import io
from functools import partial

import pytest
import torch
from PIL import Image

from retinanet.formats.images.reduced import read_reduced
from retinanet.formats.images.window_reader import open_windows
from retinanet.formats.images.windows import DecodedImage, Window
from retinanet.inference import image_detector, predictor
from retinanet.inference.image_detector import build_image_detector
from retinanet.inference.predictor import Predictor
from retinanet.model.retinanet import build_model
from tests.helpers.checkpoints import overdetecting_config


class Windows:
    """A decoded image that hides that it is in memory, and records the windows that are read."""

    def __init__(self, pixels):
        self.image = DecodedImage(pixels)
        self.windows = []

    @property
    def size(self):
        return self.image.size

    def read(self, window):
        self.windows.append(window)
        return self.image.read(window)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(overdetecting_config().model, 2)


@pytest.fixture(scope="module")
def tiling(model):
    """A predictor that sees tiles of 64 pixels, and the whole image."""
    cfg = overdetecting_config()
    tile = cfg.inference.tile.model_copy(update={"size": 64})
    cfg = cfg.model_copy(update={"inference": cfg.inference.model_copy(update={"tile": tile})})
    return Predictor(model, ["a", "b"], [1, 2], cfg)


def noise(height, width, seed=0):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def assert_equal(found, expected):
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.labels, expected.labels)


def test_windows_give_the_detections_of_the_decoded_image(tiling):
    image = noise(150, 110)
    assert_equal(tiling.detect_in(Windows(image), batch_size=3), tiling.detect_in(DecodedImage(image), batch_size=3))


def test_a_tiled_file_gives_the_detections_of_its_pixels(tiling, tmp_path, monkeypatch):
    monkeypatch.setattr(predictor, "open_windows", partial(open_windows, whole_pixels=0))
    images = [noise(150, 110, seed) for seed in range(3)]
    for number, image in enumerate(images):
        file = Image.fromarray(image.permute(1, 2, 0).numpy())
        file.save(tmp_path / f"{number}.tif", compression="tiff_lzw", tiffinfo={278: 16})
    mixed = [tmp_path / "0.tif", images[1], (tmp_path / "2.tif").read_bytes()]
    for found, image in zip(tiling.predict(mixed, batch_size=4), images, strict=True):
        assert_equal(found, next(tiling.predict([image], batch_size=4)))


def test_without_tiles_files_are_decoded_at_once(tiling, model, monkeypatch):
    monkeypatch.setattr(predictor, "open_windows", partial(open_windows, whole_pixels=0))
    file = io.BytesIO()
    Image.fromarray(noise(80, 70).permute(1, 2, 0).numpy()).save(file, "TIFF")
    with tiling.open_windows(file.getvalue()) as source:
        assert not isinstance(source, DecodedImage)
    plain = Predictor(model, ["a", "b"], [1, 2], overdetecting_config())
    with plain.open_windows(file.getvalue()) as source:
        assert isinstance(source, DecodedImage)


def test_a_large_whole_image_is_read_at_twice_its_size_in_the_network(tiling, monkeypatch):
    monkeypatch.setattr(image_detector, "WHOLE_PIXELS", 10_000)
    image = noise(900, 600)
    detector = build_image_detector(overdetecting_config(), tiling.model, device=torch.device("cpu"))
    (view,) = detector.views.of((900, 600))
    shorter = view.planned.shorter
    reduced = read_reduced(DecodedImage(image), (3 * shorter, 2 * shorter))
    (found,) = detector([Windows(image)], batch_size=1)
    (expected,) = detector([DecodedImage(reduced)], batch_size=1)
    assert len(found) > 0
    scale = 600 / (2 * shorter)
    assert torch.allclose(found.boxes, expected.boxes * scale, rtol=1e-5, atol=1e-3)
    assert torch.equal(found.scores, expected.scores)


def test_a_decoded_image_is_never_reduced(tiling, monkeypatch):
    image = noise(300, 200)
    expected = tiling.detect_in(DecodedImage(image))
    monkeypatch.setattr(image_detector, "WHOLE_PIXELS", 0)
    assert_equal(tiling.detect_in(DecodedImage(image)), expected)


def test_progress_counts_the_views(tiling):
    calls = []
    tiling.detect_in(Windows(noise(64, 115)), batch_size=2, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]  # the whole image, and tiles at 0 and 51


def test_each_window_is_read_once(tiling):
    source = Windows(noise(64, 115))
    tiling.detect_in(source, batch_size=2)
    assert sorted(source.windows) == [Window(0, 0, 64, 64), Window(0, 0, 115, 64), Window(51, 0, 115, 64)]
