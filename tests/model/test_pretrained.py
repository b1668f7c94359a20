import hashlib
import io
import urllib.error
from email.message import Message

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import Weights, WeightsEnum

from retinanet.errors import InputError
from retinanet.model.resnet import ResNet
from tests.helpers.backbones import resnet18


@pytest.mark.parametrize("norm", ["frozen", "batch", "sync"])
def test_weights_are_loaded_from_a_file(norm, imagenet_state, imagenet_file):
    backbone = resnet18(norm)
    backbone.load_pretrained(str(imagenet_file))
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, imagenet_state[key]), key


def test_weights_without_classifier_and_counters_load(imagenet_state, tmp_path):
    headless = {k: v for k, v in imagenet_state.items() if not k.startswith("fc.") and "num_batches" not in k}
    torch.save(headless, tmp_path / "headless.pth")
    backbone = resnet18("batch")
    backbone.load_pretrained(str(tmp_path / "headless.pth"))
    assert torch.equal(backbone.bn1.running_var, imagenet_state["bn1.running_var"])


@pytest.mark.parametrize(
    ("name", "norm", "message"),
    [
        ("resnet34", "frozen", "missing"),  # deeper
        ("resnet50", "frozen", "with a different shape"),
        ("resnet18", "group", "20 unknown|40 unknown"),  # without running statistics
    ],
)
def test_weights_of_a_different_network_are_rejected_and_nothing_changes(name, norm, message, imagenet_file):
    backbone = ResNet(name, norm=norm, frozen_stages=0)
    before = backbone.layer1[0].conv1.weight.clone()
    with pytest.raises(InputError, match=message) as error:
        backbone.load_pretrained(str(imagenet_file))
    for part in (str(imagenet_file), name, "model.backbone.name", "model.backbone.norm", "model.backbone.weights"):
        assert part in str(error.value)
    assert torch.equal(backbone.layer1[0].conv1.weight, before)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "EOFError"),
        (b"<html>404</html>", "UnpicklingError"),
        (b"weights", "not a weights file"),
        (b"PK\x03\x04" + bytes(40), "zip archive"),
        (nn.Linear(2, 2), "Weights only load failed; set"),  # a pickled module, which could run arbitrary code
        (torch.zeros(3), "not a plain state dict"),
        ({"model": {"conv1.weight": torch.zeros(3)}}, "not a plain state dict"),
        ({1: torch.zeros(3)}, "not a plain state dict"),
        ([torch.zeros(3)], "not a plain state dict"),
    ],
)
def test_file_without_weights_is_rejected(content, message, tmp_path):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=message) as error:
        resnet18().load_pretrained(str(path))
    assert str(path) in str(error.value) and "model.backbone.weights" in str(error.value)
    assert "weights_only" not in str(error.value)  # torch suggests loading the file unsafely


def test_missing_file_and_folder_are_rejected(tmp_path):
    for path in (tmp_path / "nowhere.pth", tmp_path):
        with pytest.raises(InputError, match=r"model\.backbone\.weights") as error:
            resnet18().load_pretrained(str(path))
        assert str(path) in str(error.value)


def test_pickled_code_does_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"conv1.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(InputError):
        resnet18().load_pretrained(str(tmp_path / "trap.pth"))
    assert not (tmp_path / "sprung").exists()


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("reason", [urllib.error.URLError("no route to host"), TimeoutError("no route to host")])
@pytest.mark.parametrize("weights", ["imagenet", "IMAGENET1K_V1"])
def test_failed_download_names_url_target_and_alternatives(weights, reason, torch_home, monkeypatch):
    requested = []

    def refuse(request, *args, **kwargs):
        requested.append(request.full_url)
        raise reason

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    backbone = resnet18()
    before = backbone.conv1.weight.clone()
    with pytest.raises(InputError, match="no route to host") as error:
        backbone.load_pretrained(weights)
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    assert requested == [url]
    for part in (url, str(torch_home / "hub" / "checkpoints" / "resnet18-f37072fd.pth"), "model.backbone.weights="):
        assert part in str(error.value)
    assert torch.equal(backbone.conv1.weight, before)


def test_damaged_download_is_rejected_and_deleted(torch_home, monkeypatch):
    class Response(io.BytesIO):
        def info(self):
            return Message()  # no headers

    monkeypatch.setattr("torch.hub.urlopen", lambda *args, **kwargs: Response(b"half a file"))
    with pytest.raises(InputError, match="invalid hash value"):
        resnet18().load_pretrained("imagenet")
    assert list((torch_home / "hub" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04" + bytes(40)])
def test_damaged_file_in_the_download_cache_is_rejected(content, torch_home):
    target = torch_home / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    target.parent.mkdir(parents=True)
    target.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.backbone\.weights") as error:
        resnet18().load_pretrained("imagenet")
    assert str(target) in str(error.value)


def published(path, digest, monkeypatch):
    """Make torchvision offer `path` as its newest resnet18 weights, with a hash in the file name."""
    named = path.with_name(f"resnet18-{digest[:8]}.pth")
    named.write_bytes(path.read_bytes())

    class Known(WeightsEnum):
        IMAGENET1K_V1 = Weights(url=named.as_uri(), transforms=None, meta={})
        DEFAULT = IMAGENET1K_V1

    monkeypatch.setattr("torchvision.models.get_model_weights", lambda name: Known)
    return named.name


def test_download_with_the_right_hash_is_loaded(imagenet_file, imagenet_state, torch_home, monkeypatch):
    name = published(imagenet_file, hashlib.sha256(imagenet_file.read_bytes()).hexdigest(), monkeypatch)
    backbone = resnet18()
    backbone.load_pretrained("imagenet")
    assert torch.equal(backbone.layer4[1].conv2.weight, imagenet_state["layer4.1.conv2.weight"])
    assert (torch_home / "hub" / "checkpoints" / name).exists()


def test_download_with_a_wrong_hash_is_rejected(imagenet_file, torch_home, monkeypatch):
    published(imagenet_file, "0123456789", monkeypatch)
    with pytest.raises(InputError, match="invalid hash value"):
        resnet18().load_pretrained("imagenet")


def test_unknown_name_is_rejected_with_a_list_of_names(torch_home):
    with pytest.raises(
        InputError, match=r"resnet18 has no weights named IMAGENET1K_V9; expected one of imagenet, IMAGENET1K_V1$"
    ):
        resnet18().load_pretrained("IMAGENET1K_V9")
