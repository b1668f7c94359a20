"""Pretrained weights of timm's networks: from files, by name, and the statistics of images they expect."""

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from retinanet.config import ModelConfig, TimmConfig
from retinanet.errors import InputError
from retinanet.model.retinanet import build_model_for_training
from retinanet.model.timm_backbone import TimmBackbone
from retinanet.model.timm_weights import note_on_statistics
from tests.helpers.backbones import IMAGES, spread_out

timm = pytest.importorskip("timm", reason="needs timm")


def backbone(name, **settings):
    torch.manual_seed(1)
    return TimmBackbone(name, norm="frozen", frozen_stages=0, **settings).eval()


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty cache of the hub, without a connection."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


# densenet121 keeps its names, hrnet has its own class, and swin's maps are channels last.
@pytest.mark.parametrize(
    "name", ["test_resnet", "test_convnext", "test_efficientnet", "mobilenetv3_small_050", "test_mambaout"]
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_features_equal_those_of_the_whole_network_in_the_file(name, suffix, tmp_path):
    torch.manual_seed(0)
    whole = spread_out(timm.create_model(name)).eval()
    file = tmp_path / f"weights.{suffix}"
    torch.save(whole.state_dict(), file) if suffix == "pth" else save_file(whole.state_dict(), file)
    module = backbone(name)
    module.load_pretrained(str(file))
    with torch.no_grad():
        maps = whole.forward_intermediates(IMAGES, intermediates_only=True, output_fmt="NCHW")
        assert_close(module(IMAGES), maps[-3:], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["densenet121", "hrnet_w18_small", "swin_tiny_patch4_window7_224", "xception41"])
def test_other_wrappers_find_their_weights(name, tmp_path):
    """Every tensor of the backbone that the whole network has comes from the file."""
    torch.manual_seed(0)
    torch.save(timm.create_model(name).state_dict(), tmp_path / "weights.pth")
    features = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        module = backbone(name)
        module.load_pretrained(str(tmp_path / "weights.pth"))
        with torch.no_grad():
            features.append(module(IMAGES))
    assert_close(*features, rtol=0, atol=0)


def test_file_of_another_network_is_rejected_and_changes_nothing(tmp_path):
    torch.save(timm.create_model("test_convnext").state_dict(), tmp_path / "weights.pth")
    module = backbone("test_resnet")
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(InputError, match=r"does not contain timm's weights of test_resnet: \d+ missing.*unknown"):
        module.load_pretrained(str(tmp_path / "weights.pth"))
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_file_without_a_layer_or_with_another_width_is_rejected(tmp_path):
    state = timm.create_model("test_resnet").state_dict()
    del state["layer3.0.conv1.weight"]
    state["conv1.0.weight"] = state["conv1.0.weight"][:4]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"1 missing \['layer3\.0\.conv1\.weight'\], 0 unknown.*1 with a different"):
        backbone("test_resnet").load_pretrained(str(tmp_path / "weights.pth"))


def test_damaged_file_is_rejected(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="not a weights file"):
        backbone("test_resnet").load_pretrained(str(tmp_path / "weights.safetensors"))


def test_stem_for_rgb_is_summed_for_grey_images(tmp_path):
    """The response to a grey image equals that of the RGB stem to the same values in each channel."""
    whole = timm.create_model("test_convnext").eval()
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    module = backbone("test_convnext", in_channels=1)
    module.load_pretrained(str(tmp_path / "weights.pth"))
    grey = IMAGES[:, :1]
    with torch.no_grad():
        maps = whole.forward_intermediates(grey.expand(-1, 3, -1, -1), intermediates_only=True)
        assert_close(module(grey), maps[-3:], rtol=1e-4, atol=1e-5)


def test_unknown_name_of_weights_lists_the_known_ones():
    with pytest.raises(InputError, match=r"in1k is neither a file nor .* for test_resnet; .*: imagenet, r160_in1k\."):
        backbone("test_resnet").load_pretrained("in1k")


def test_network_without_weights_is_reported():
    with pytest.raises(InputError, match=r"imagenet is neither .*timm has no weights for it"):
        backbone("mobilenetv4_conv_small_035").load_pretrained("imagenet")


def test_failed_download_names_the_source_the_target_and_the_key(offline):
    with pytest.raises(InputError) as caught:
        backbone("test_resnet").load_pretrained("imagenet")
    for part in ("model.backbone.weights", "r160_in1k", "https://huggingface.co/timm/test_resnet", str(offline)):
        assert part in str(caught.value)


def test_weights_by_name_come_from_the_cache_of_the_hub(offline):
    torch.manual_seed(0)
    whole = spread_out(timm.create_model("test_resnet")).eval()
    commit = "0123456789" * 4
    folder = offline / "models--timm--test_resnet.r160_in1k"
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    save_file(whole.state_dict(), folder / "snapshots" / commit / "model.safetensors")
    features = []
    for weights in ("imagenet", "r160_in1k"):
        module = backbone("test_resnet")
        module.load_pretrained(weights)
        with torch.no_grad():
            features.append(module(IMAGES))
    with torch.no_grad():
        maps = whole.forward_intermediates(IMAGES, intermediates_only=True)
    for found in features:
        assert_close(found, maps[-3:], rtol=1e-4, atol=1e-5)


def test_statistics_of_images_that_differ_from_those_of_the_weights_are_described():
    # 0.485 * 255 = 123.675, 0.229 * 255 = 58.395: the defaults; test_resnet has 0.5 * 255 = 127.5 throughout.
    imagenet = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    assert note_on_statistics("convnext_tiny", "imagenet", *imagenet) is None
    half = (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)
    assert note_on_statistics("mobilevit_xxs", "none such", (1.0,), (1.0,)) is None  # not RGB
    note = note_on_statistics("convnext_tiny", "imagenet", *half)
    assert note.endswith("model.mean='[123.675, 116.28, 103.53]' model.std='[58.395, 57.12, 57.375]'")


def test_training_warns_of_other_statistics_and_loads_the_file(tmp_path, caplog):
    torch.save(timm.create_model("test_convnext").state_dict(), tmp_path / "weights.pth")
    backbone_cfg = TimmConfig(name="test_convnext", weights=str(tmp_path / "weights.pth"))
    cfg = ModelConfig(backbone=backbone_cfg, channels=16, head_convs=1, mean=(0.0, 0.0, 0.0))
    build_model_for_training(cfg, 2)
    assert "model.mean is [0.0, 0.0, 0.0]" in caplog.text
