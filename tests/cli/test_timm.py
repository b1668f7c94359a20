"""Commands with a backbone from timm, from the check of the data to predictions."""

import json

import pytest

from retinanet.__main__ import main
from retinanet.checkpoint.file import read_checkpoint

timm = pytest.importorskip("timm", reason="needs timm")
pytestmark = pytest.mark.usefixtures("restore_process_settings")


def backbone(name, weights="none", **settings):
    settings = {"type": "timm", "name": name, "weights": str(weights), **settings}
    return f"model.backbone={json.dumps(settings)}"


@pytest.mark.slow
def test_all_commands_work_with_a_timm_backbone(tiny_overrides, shapes, tmp_path, monkeypatch, capsys):
    import torch

    monkeypatch.chdir(tmp_path)
    torch.save(timm.create_model("test_efficientnet").state_dict(), "weights.pth")
    overrides = [
        *tiny_overrides,
        backbone("test_efficientnet", "weights.pth"),
        "model.mean=[127.5, 127.5, 127.5]",
        "model.std=[127.5, 127.5, 127.5]",
        "train.ema_decay=0.9",
        "data.resize.divisor=32",
    ]
    assert main(["check", "quickstart", *overrides]) in (0, 1)
    assert main(["train", "quickstart", "--dry-run", *overrides]) == 0
    assert "test_efficientnet, weights weights.pth, frozen norm" in capsys.readouterr().out
    assert main(["train", "quickstart", "--output", "run", *overrides]) == 0
    (tmp_path / "run/checkpoints/step_00000008.pt").unlink()
    assert main(["train", "--resume", "run"]) == 0
    checkpoint = read_checkpoint("run/checkpoints/last.pt")
    assert checkpoint.step == 8 and checkpoint.state["ema"]
    assert main(["eval", "run/checkpoints/last.pt", "--output", "scores"]) == 0
    assert main(["predict", "run/checkpoints/last.pt", str(shapes / "val"), "--output", "found"]) == 0
    assert list((tmp_path / "found").iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([backbone("convnxt_tiny", frozen_stages=0)], "no network 'convnxt_tiny'; did you mean convnext_tiny"),
        ([backbone("vit_tiny_patch16_224", frozen_stages=0)], "its feature maps have strides 16, 16, 16"),
        (
            [backbone("test_convnext", frozen_stages=0), "data.resize.shorter=72", "data.resize.divisor=8"],
            "data.resize: images are padded to sides of 72 pixels, where the feature maps of test_convnext differ in "
            "size from the grids of the anchors; it needs multiples of 32: set data.resize.divisor=32",
        ),
        (
            [backbone("convnext_tiny.dinov3_lvd1689m", "imagenet")],
            "name is convnext_tiny.dinov3_lvd1689m, which includes weights; set name: convnext_tiny and weights: "
            "dinov3_lvd1689m",
        ),
        ([backbone("test_convnext", frozen_stages=2)], "weights is none and frozen_stages is 2"),
    ],
)
def test_unsuitable_backbone_is_rejected_before_the_data_is_read(settings, message, tiny_overrides, capsys):
    assert main(["train", "quickstart", "--dry-run", *tiny_overrides, *settings]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and "24 images" not in printed.err + printed.out
