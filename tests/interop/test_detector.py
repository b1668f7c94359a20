import hashlib
import shutil
import urllib.error

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import Weights, WeightsEnum, get_model_weights, resnet18
from torchvision.models.detection import retinanet_resnet50_fpn

from retinanet.errors import InputError
from retinanet.interop.detector import read_detector
from retinanet.model.retinanet import build_model
from tests.helpers.models import model_config

NAME = "retinanet_resnet50_fpn"


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    return retinanet_resnet50_fpn(weights=None, weights_backbone=None).state_dict()


@pytest.fixture(scope="module")
def published(theirs, tmp_path_factory):
    """A file named as torchvision names its downloads: with the start of its checksum."""
    path = tmp_path_factory.mktemp("published") / "weights.pth"
    torch.save(theirs, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(path.with_name(f"{NAME}_coco-{digest[:8]}.pth"))


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def offer(monkeypatch, path):
    """Make torchvision offer a file as the weights of every detector."""

    class Known(WeightsEnum):
        COCO_V1 = Weights(url=path.as_uri(), transforms=None, meta={})
        DEFAULT = COCO_V1

    monkeypatch.setattr("torchvision.models.get_model_weights", lambda name: Known)


def test_weights_are_downloaded_by_name(theirs, published, torch_home, monkeypatch):
    offer(monkeypatch, published)
    detector = read_detector(f"torchvision:{NAME}")
    assert (torch_home / "hub" / "checkpoints" / published.name).is_file()
    assert torch.equal(detector.state["backbone.conv1.weight"], theirs["backbone.body.conv1.weight"])
    assert detector.model.backbone.norm_eps == 0.0  # as torchvision sets it for these weights
    assert detector.source == f"torchvision:{NAME}" and detector.class_names[0] == "person"

    published_again = torch_home / "hub" / "checkpoints" / published.name
    monkeypatch.setattr("torch.hub.urlopen", None)  # the cached file is used
    assert read_detector(f"torchvision:{NAME}").model == detector.model
    damaged = bytearray(published_again.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    published_again.write_bytes(damaged)
    with pytest.raises(InputError, match="invalid hash value"):
        read_detector(f"torchvision:{NAME}")


def test_download_with_a_wrong_hash_is_rejected(published, torch_home, monkeypatch, tmp_path):
    offer(monkeypatch, shutil.copy(published, tmp_path / f"{NAME}_coco-01234567.pth"))
    with pytest.raises(InputError, match="invalid hash value"):
        read_detector(f"torchvision:{NAME}")
    assert list((torch_home / "hub" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("name", [NAME, f"{NAME}_v2"])
def test_failed_download_names_url_target_and_key(name, torch_home, monkeypatch):
    def refuse(request, *args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(InputError, match="no route to host") as error:
        read_detector(f"torchvision:{name}")
    url = get_model_weights(name).COCO_V1.url
    target = torch_home / "hub" / "checkpoints" / url.rsplit("/", 1)[-1]
    assert all(part in str(error.value) for part in (url, str(target), "train.init_from=PATH"))


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn_v3", "fasterrcnn_resnet50_fpn", "nowhere/file.pth", ""])
def test_unknown_name_is_rejected_with_the_known_ones(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "":
        with pytest.raises(InputError):
            read_detector("torchvision:")
        return
    with pytest.raises(InputError, match=rf"torchvision:{name}: no such .* {NAME} or {NAME}_v2, or a file"):
        read_detector(f"torchvision:{name}")


def test_file_of_torchvisions_weights_is_recognised_by_its_checksum(theirs, published, tmp_path, monkeypatch):
    """They need eps = 0, under whatever name they were saved; other weights of this network are used with 1e-5."""
    assert read_detector(f"torchvision:{published}").model.backbone.norm_eps == 1e-5
    offer(monkeypatch, published)
    copy = shutil.copy(published, tmp_path / "mine.pth")
    assert read_detector(str(copy)).model.backbone.norm_eps == 0.0
    torch.save({**theirs, "backbone.body.conv1.weight": theirs["backbone.body.conv1.weight"] + 1}, copy)
    assert read_detector(str(copy)).model.backbone.norm_eps == 1e-5


@pytest.mark.parametrize("how", ["torch", "safetensors"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_file_of_torchvision_is_recognised(theirs, tmp_path, prefix, how):
    renamed = {prefix + name: value for name, value in theirs.items()}
    torch.save(renamed, tmp_path / "x.pth") if how == "torch" else save_file(renamed, tmp_path / "x.pth")
    detector = read_detector(str(tmp_path / "x.pth"))
    assert detector.source == str(tmp_path / "x.pth") and len(detector.class_names) == 80
    assert torch.equal(detector.state["fpn.p7.weight"], theirs["backbone.fpn.extra_blocks.p7.weight"])


def test_backbone_alone_is_rejected_with_the_key_to_set(tmp_path):
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    for source in (str(tmp_path / "resnet18.pth"), f"torchvision:{tmp_path / 'resnet18.pth'}"):
        with pytest.raises(InputError, match=r"only a backbone, .* set model\.backbone\.weights=.*resnet18\.pth"):
            read_detector(source)


def test_head_alone_is_rejected(theirs, tmp_path):
    torch.save({name: value for name, value in theirs.items() if name.startswith("head.")}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="so it is not a RetinaNet, or only a part of one"):
        read_detector(str(tmp_path / "x.pth"))


def test_weights_of_another_framework_than_the_one_named_are_rejected(theirs, tmp_path):
    torch.save(theirs, tmp_path / "x.pth")
    with pytest.raises(
        InputError, match=r"contains weights of torchvision, not of detectron2; pass torchvision:.*x\.pth"
    ):
        read_detector(f"detectron2:{tmp_path / 'x.pth'}")


def test_our_own_weights_and_other_networks_are_rejected_with_advice(tmp_path):
    torch.save(build_model(model_config(name="resnet18", channels=64), 2).state_dict(), tmp_path / "ours.pt")
    with pytest.raises(InputError, match=r"only weights, without a config .* train\.init_from="):
        read_detector(str(tmp_path / "ours.pt"))
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)).state_dict(), tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"not a RetinaNet of torchvision, .* its tensors are 0\.weight, 0\.bias"):
        read_detector(str(tmp_path / "other.pt"))
