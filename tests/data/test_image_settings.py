"""`data.value_range` and `data.bands` apply equally to training, evaluation and prediction."""

import json
import logging

import numpy as np
import pytest
import torch

from retinanet.config import Config, DataSource
from retinanet.data.build import build_reader, eval_loader, load_train_data, load_val_data, train_loader
from retinanet.data.sampler import PlannedImage
from retinanet.errors import InputError
from retinanet.inference.predictor import Predictor
from retinanet.model.retinanet import build_model
from tests.helpers.tiff_files import tiff_of

SIDE = 32


def config(folder, values, **settings):
    """A config that trains and validates on one image, read at its original size."""
    (folder / "images").mkdir()
    (folder / "images/image.tif").write_bytes(tiff_of(values))
    document = {
        "images": [{"id": 1, "file_name": "image.tif", "height": SIDE, "width": SIDE}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 12], "area": 120}],
        "categories": [{"id": 1, "name": "object"}],
    }
    (folder / "truth.json").write_text(json.dumps(document))
    source = DataSource(images=str(folder / "images"), annotations=str(folder / "truth.json"))
    data = {"train": [source.model_dump()], "val": [source.model_dump()], "workers": 0} | settings
    data |= {"resize": {"shorter": [SIDE], "longer": SIDE, "divisor": 8}, "transforms": [{"type": "resize"}]}
    return Config.model_validate_json(
        json.dumps(
            {
                "data": data,
                "model": {"backbone": {"weights": "none", "name": "resnet18", "frozen_stages": 0}, "channels": 8},
                "train": {"steps": 1, "batch_size": 1},
                "device": "cpu",
            }
        )
    )


@pytest.mark.parametrize(
    ("dtype", "num_bands", "settings", "bands", "low", "high"),
    [
        ("u2", 1, {}, [0, 0, 0], 0, 4095),
        ("u2", 1, {"value_range": [1000, 3000]}, [0, 0, 0], 1000, 3000),
        ("u2", 8, {"bands": [8, 1, 3]}, [7, 0, 2], 0, 4095),
        ("f4", 8, {"bands": [2], "value_range": [-100.0, 4000.0]}, [1, 1, 1], -100, 4000),
    ],
)
def test_every_reader_gives_the_same_pixels(tmp_path, dtype, num_bands, settings, bands, low, high):
    values = np.random.default_rng(0).integers(0, 4096, (SIDE, SIDE, num_bands)).astype(dtype)
    cfg = config(tmp_path, values, **settings)
    scaled = (np.clip(values[..., bands].astype(float), low, high) - low) / (high - low)
    expected = torch.from_numpy(np.floor(scaled * 255 + 0.5).astype(np.uint8)).permute(2, 0, 1)
    data = load_train_data(cfg)
    (batch,) = train_loader(cfg, data, start=0, stop=1, pin_memory=False)
    assert torch.equal(batch.images[0], expected)

    planned = PlannedImage(0, 0, SIDE, SIDE, (SIDE, SIDE), (SIDE, SIDE))
    (batch,) = eval_loader(cfg, load_val_data(cfg, data.class_names), [[planned]], pin_memory=False)
    assert torch.equal(batch.images[0], expected)

    assert torch.equal(build_reader(cfg, data, [], seed=0).read(0).image, expected)  # shown in TensorBoard
    predictor = Predictor(build_model(cfg.model, 1), ("object",), (1,), cfg)
    assert torch.equal(predictor.read_image(data.paths[0]), expected)
    from_file, from_pixels = predictor(data.paths[0]), predictor(expected)
    assert torch.equal(from_file.scores, from_pixels.scores) and torch.equal(from_file.boxes, from_pixels.boxes)


def test_value_range_is_logged_once(tmp_path, caplog):
    values = np.full((SIDE, SIDE, 3), 1728, np.uint16)
    values[0] = 5
    cfg = config(tmp_path, values)
    with caplog.at_level(logging.INFO, logger="retinanet.formats.findings"):
        load_train_data(cfg)
    assert [record.getMessage() for record in caplog.records if "samples" in record.getMessage()] == [
        f"{tmp_path / 'truth.json'}: 1 image(s) have uint16 samples, from 5 to 1728: data.value_range auto scales "
        "[0, 4095] to 0..255"
    ]


def test_8_bit_images_are_not_mentioned(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="retinanet.formats.findings"):
        load_train_data(config(tmp_path, np.zeros((SIDE, SIDE, 3), np.uint8)))
    assert not any("samples" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("value_range", "full", r"found 'full', expected auto, or \[low, high\] with low below high"),
        ("value_range", [3, 3], "with low below high"),
        ("value_range", [1], "with low below high"),
        ("value_range", ["0", "1"], "with low below high"),
        ("value_range", {"low": 0}, "with low below high"),
        ("bands", [1, 2], r"data\.bands selects 2 band\(s\) and model\.in_channels is 3; .* or one band"),
        ("bands", [0, 1, 2], "greater than or equal to 1"),
    ],
)
def test_invalid_settings(tmp_path, key, value, words):
    with pytest.raises(ValueError, match=words):
        config(tmp_path, np.zeros((SIDE, SIDE, 1), np.uint8), **{key: value})


def test_16_bit_pil_image_is_an_error_that_says_what_to_do(tmp_path):
    from PIL import Image

    cfg = config(tmp_path, np.zeros((SIDE, SIDE, 1), np.uint8))
    predictor = Predictor(build_model(cfg.model, 1), ("object",), (1,), cfg)
    with pytest.raises(InputError, match=r"PIL image of mode I;16, expected 8 bits.*path of its file.*value_range"):
        predictor(Image.new("I;16", (SIDE, SIDE)))
