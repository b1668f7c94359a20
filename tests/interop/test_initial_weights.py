import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel
from torchvision.models.detection import retinanet_resnet50_fpn

from retinanet.checkpoint.file import write_checkpoint
from retinanet.config.load import load_config
from retinanet.engine.train import train
from retinanet.errors import InputError
from retinanet.interop.initial_weights import read_initial_weights
from retinanet.model.finetune import load_for_finetuning
from retinanet.model.retinanet import build_model
from tests.helpers.checkpoints import checkpoint_of, untrained_checkpoint
from tests.helpers.models import model_config

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "torchvision_r50.yaml"
CFG = model_config(name="resnet18", channels=64, head_convs=1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(CFG, 2).eval()


def assert_equal(state, expected):
    assert set(state) - {"n_averaged"} == set(expected)
    assert all(torch.equal(state[name], value) for name, value in expected.items())


@pytest.mark.parametrize("how", ["torch", "safetensors"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.", "model.module.", "_orig_mod.model."]
)
def test_state_dict_of_our_network_is_read_with_any_prefix(model, tmp_path, prefix, how):
    state = {prefix + name: value for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "x.pt") if how == "torch" else save_file(state, tmp_path / "x.pt")
    weights = read_initial_weights(str(tmp_path / "x.pt"))
    assert_equal(weights.state, model.state_dict())
    assert weights.model is None and weights.class_names is None
    new = build_model(CFG, 2)
    report = load_for_finetuning(new, CFG, weights, ["fish", "worm"])
    assert_equal(new.state_dict(), model.state_dict())
    assert "by position, because the weights do not name their classes" in report.taken


def test_state_dicts_of_wrapped_models_are_read(model, tmp_path):
    for wrapped in (torch.nn.DataParallel(model), torch.compile(model), AveragedModel(model)):
        torch.save(wrapped.state_dict(), tmp_path / "x.pt")
        assert_equal(read_initial_weights(str(tmp_path / "x.pt")).state, model.state_dict())
        torch.save({"epoch": 3, "model": wrapped.state_dict()}, tmp_path / "x.pt")
        assert_equal(read_initial_weights(str(tmp_path / "x.pt")).state, model.state_dict())


def test_checkpoint_is_read_with_its_config_and_average(tmp_path):
    average = {"weight": torch.ones(2)}
    write_checkpoint(tmp_path / "x.pt", checkpoint_of(model={"weight": torch.zeros(2)}, ema={"model": average}))
    weights = read_initial_weights(str(tmp_path / "x.pt"))
    assert torch.equal(weights.state["weight"], average["weight"])
    assert weights.class_names == ("cat", "dog") and weights.model is not None


def test_damaged_checkpoint_and_missing_file_are_reported(tmp_path):
    digest = write_checkpoint(tmp_path / "x.pt", checkpoint_of(model={"weight": torch.zeros(500)}))
    (tmp_path / "x.pt.sha256").write_text(f"{digest}  x.pt\n")
    (tmp_path / "x.pt").write_bytes((tmp_path / "x.pt").read_bytes()[:-100])
    with pytest.raises(InputError, match=r"x\.pt: damaged: checksum differs"):
        read_initial_weights(str(tmp_path / "x.pt"))
    with pytest.raises(InputError, match=r"train\.init_from: .*nowhere\.pt does not exist"):
        read_initial_weights(str(tmp_path / "nowhere.pt"))


@pytest.mark.parametrize("kind", ["checkpoint", "state dict", "prefixed state dict"])
def test_run_starts_from_weights_and_logs_what_it_took(tmp_path, shapes, tiny_overrides, caplog, kind):
    """The learning rate is so small that the weights stay those of the file."""
    checkpoint = untrained_checkpoint(tmp_path / "old", shapes)
    state = torch.load(checkpoint, weights_only=True)["state"]["model"]
    source = tmp_path / "weights.pt"
    if kind == "checkpoint":
        shutil.copy(checkpoint, source)
    else:
        prefix = "module." if kind.startswith("prefixed") else ""
        torch.save({prefix + name: value for name, value in state.items()}, source)
    overrides = [*tiny_overrides, "train.steps=1", "train.save_every=1", f"train.init_from={source}"]
    with caplog.at_level(logging.INFO):
        result = train(load_config("quickstart", [*overrides, "train.optimizer.lr=1e-30"]), tmp_path / "run")
    assert result is not None
    trained = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["state"]["model"]
    weights = [name for name in state if "running" not in name and "num_batches" not in name]
    assert max((trained[name] - state[name]).abs().max() for name in weights) < 1e-20
    (line,) = (record.message for record in caplog.records if record.message.startswith("weights from"))
    assert line.splitlines()[0] == f"weights from {source}"
    assert [part.split(":")[0].strip() for part in line.splitlines()[1:]] == ["taken", "re-initialised", "left over"]


@pytest.mark.slow
def test_run_starts_from_torchvisions_weights_with_its_bundled_config(tmp_path, shapes, tiny_overrides, caplog):
    """COCO's classes do not occur in the dataset, so all rows of the class layer are new."""
    torch.manual_seed(0)
    torch.save(retinanet_resnet50_fpn(weights=None, weights_backbone=None).state_dict(), tmp_path / "theirs.pth")
    skipped = ("model.", "train.epochs", "train.steps", "train.deterministic")
    overrides = [override for override in tiny_overrides if not override.startswith(skipped)]
    overrides += ["train.steps=1", "train.warmup_steps=0", f"train.init_from={tmp_path / 'theirs.pth'}"]
    cfg = load_config(CONFIG, [*overrides, "data.resize.shorter=64", "model.backbone.norm_eps=1e-5"])
    with caplog.at_level(logging.INFO):
        train(cfg, tmp_path / "run")
    (line,) = (record.message for record in caplog.records if record.message.startswith("weights from"))
    assert "0 classes by name in head.class_subnet.8" in line and "80 classes (person, bicycle" in line
    wrong = load_config(CONFIG, [*overrides, "model.p6_from=c5", "model.anchors.rounding=none"])
    with pytest.raises(InputError) as error:
        train(wrong, tmp_path / "wrong")
    assert [text.strip() for text in str(error.value).splitlines()[1:]] == [
        "model.backbone.norm_eps=1.0e-05  (now 0.0)",
        "model.p6_from=p5  (now c5)",
        "model.anchors.rounding=torchvision  (now none)",
    ]
