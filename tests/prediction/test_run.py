"""Predictions on images whose bands are in several files."""

import numpy as np
import pytest
import torch
from PIL import Image

from retinanet import predict
from retinanet.checkpoint.file import Checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.config.load import load_config
from retinanet.errors import InputError
from retinanet.model.retinanet import build_model
from tests.helpers.multiband import overrides_for, write_pairs
from tests.helpers.predictions import contents

PATTERNS = '["rgb/{stem}.png", "%s/{stem}.tif"]'


@pytest.fixture
def run_predict(tmp_path):
    """Predict on three images of two files each, into the folder `out`."""
    source = write_pairs(tmp_path / "pairs", count=3)
    overrides = overrides_for(source, 4, f"data.band_files={PATTERNS % 'thermal'}", "model.prior=0.3")
    cfg = load_config("quickstart", overrides)
    torch.manual_seed(0)
    checkpoint = Checkpoint(cfg, ("object",), (1,), 1, {"model": build_model(cfg.model, 1).state_dict()})
    file = CheckpointFolder(tmp_path / "checkpoints", keep=1).save(checkpoint)

    def run(overrides=(), *, output=tmp_path / "out"):
        return predict(file, tmp_path / "pairs/rgb", output, overrides, crops=True, min_score=0.1, batch_size=1)

    return run


def test_a_change_of_any_file_of_an_image_is_noticed(run_predict, tmp_path):
    run_predict()
    assert run_predict().num_reused == 3
    Image.fromarray(np.full((64, 64), 4000, dtype=np.uint16)).save(tmp_path / "pairs/thermal/1.tif")
    assert run_predict().num_reused == 2
    run_predict(output=tmp_path / "undisturbed")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_crops_that_a_changed_image_no_longer_has_are_removed(run_predict, tmp_path):
    run_predict()
    crops = tmp_path / "out/crops/object"
    assert list(crops.glob("1_*.png"))
    (tmp_path / "pairs/rgb/1.png").write_bytes(b"hello")
    run_predict()
    assert not list(crops.glob("1_*.png")) and list(crops.glob("0_*.png"))


def test_an_image_without_its_second_file_is_tried_again(run_predict, tmp_path):
    (tmp_path / "pairs/thermal/1.tif").rename(tmp_path / "moved.tif")
    assert len(run_predict().failures) == 1
    (tmp_path / "moved.tif").rename(tmp_path / "pairs/thermal/1.tif")
    result = run_predict()
    assert (result.num_images, result.num_reused, len(result.failures)) == (3, 2, 0)


def test_other_files_are_another_setting(run_predict, tmp_path):
    run_predict()
    (tmp_path / "pairs/thermal").rename(tmp_path / "pairs/other")
    with pytest.raises(InputError, match=r"contains results with other settings \(data\.band_files"):
        run_predict([f"data.band_files={PATTERNS % 'other'}"])
