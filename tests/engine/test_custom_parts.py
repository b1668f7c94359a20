"""Runs with a dataset, a model and a loss that are passed in Python."""

import json
import multiprocessing
import re

import pytest
import torch
import yaml

import retinanet
from retinanet.__main__ import main
from retinanet.checkpoint.file import Checkpoint, read_checkpoint
from retinanet.config import ModelConfig, ResNetConfig
from retinanet.config.load import with_overrides
from retinanet.engine.callbacks import Callback
from retinanet.engine.state import load_initial_weights
from retinanet.errors import InputError
from retinanet.model.retinanet import build_model
from tests.helpers.custom_parts import CrossEntropy, NoiseDataset, OneLevel, config, parts
from tests.helpers.metrics import metrics_without_times
from tests.helpers.published import published

pytestmark = pytest.mark.usefixtures("restore_process_settings")
MODULE = "tests.helpers.custom_parts"
NAMES = (
    f"model {MODULE}.OneLevel",
    f"class loss {MODULE}.CrossEntropy",
    f"training set {MODULE}.NoiseDataset",
    f"validation set {MODULE}.NoiseDataset",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run with custom parts."""
    folder = tmp_path_factory.mktemp("custom") / "run"
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    retinanet.train(config(), folder, **parts())
    torch.use_deterministic_algorithms(was_deterministic)
    return folder


def test_run_records_its_parts_and_not_the_sections_that_they_replace(run):
    recorded = yaml.safe_load((run / "config.yaml").read_text())
    assert "model" not in recorded and "classification" not in recorded["loss"] and "box" in recorded["loss"]
    assert "train" not in recorded["data"] and "val" not in recorded["data"]
    assert recorded["custom"]["model"] == f"{MODULE}.OneLevel"
    assert tuple(json.loads((run / "environment.json").read_text())["custom_parts"]) == NAMES
    assert read_checkpoint(run / "checkpoints/last.pt").config.custom.described == NAMES
    assert f"{MODULE}.OneLevel" in (run / "log.txt").read_text() and NAMES[0] in (run / "report.html").read_text()


def test_evaluation_repeats_the_scores_of_training(run):
    given = parts()
    found = retinanet.evaluate(
        run / "checkpoints/last.pt", dataset=given["val_dataset"], model=given["model"], loss=given["loss"]
    )
    (*_, last) = (line for line in metrics_without_times(run) if line["kind"] == "eval")
    assert found.metrics["loss"] == last["loss"]


FOUR = ["model.in_channels=4", "model.mean=[120, 120, 120, 60]", "model.std=[60, 60, 60, 30]"]


def own_retinanet():
    """A `RetinaNet` for four channels, with a pyramid from P2."""
    torch.manual_seed(0)
    backbone = ResNetConfig(name="resnet10_half", weights="none", norm="batch", frozen_stages=0)
    cfg = ModelConfig(
        backbone=backbone, levels="p2..p6", channels=8, head_convs=1, in_channels=4, mean=(120,) * 4, std=(60,) * 4
    )
    return build_model(cfg, 2)


@pytest.mark.parametrize("build", [lambda: OneLevel(channels=4), own_retinanet], ids=["detector", "RetinaNet"])
def test_model_and_dataset_with_four_channels(tmp_path, build):
    cfg = with_overrides(config(), FOUR, source="test")
    val = NoiseDataset(2, first=6, channels=4)
    retinanet.train(cfg, tmp_path / "run", dataset=NoiseDataset(channels=4), val_dataset=val, model=build())
    recorded = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert recorded["model"] == {"in_channels": 4, "mean": [120, 120, 120, 60], "std": [60, 60, 60, 30]}
    checkpoint = tmp_path / "run/checkpoints/last.pt"
    (*_, last) = (line for line in metrics_without_times(tmp_path / "run") if line["kind"] == "eval")
    assert retinanet.evaluate(checkpoint, dataset=val, model=build()).metrics["loss"] == last["loss"]
    predictor = retinanet.Predictor.from_checkpoint(checkpoint, model=build())
    predictor.warm_up()
    assert len(predictor([val.read_image(0), val.read_image(1)])) == 2
    with pytest.raises(InputError, match=r"expected torch.uint8 \(4, H, W\)"):
        predictor(torch.zeros(3, 32, 48, dtype=torch.uint8))
    retinanet.train(tmp_path / "run/config.yaml", tmp_path / "run", dataset=NoiseDataset(channels=4), val_dataset=val,
                    model=build(), resume=True)  # fmt: skip


class Interruption(Callback):
    """Raises `KeyboardInterrupt`, which must not be swallowed, in the third step."""

    def on_log(self, step, metrics):
        if step == 3:
            raise KeyboardInterrupt


def test_interrupted_run_resumes_bit_for_bit(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        retinanet.train(config(), tmp_path / "run", **parts(), callbacks=[Interruption()])
    assert read_checkpoint(tmp_path / "run/checkpoints/last.pt").step == 2
    retinanet.train(config(), tmp_path / "run", **parts(), resume=True)
    assert metrics_without_times(tmp_path / "run") == metrics_without_times(run)
    straight, resumed = (read_checkpoint(folder / "checkpoints/last.pt") for folder in (run, tmp_path / "run"))
    assert all(value.equal(resumed.weights()[name]) for name, value in straight.weights().items())


@pytest.mark.parametrize("missing", ["model", "loss", "dataset", "val_dataset"])
def test_resuming_without_a_part_is_refused_by_name(missing, run):
    given = parts()
    name = type(given.pop(missing)).__name__
    with pytest.raises(InputError, match=rf"the run has .*{name}.* found .*pass the same ones"):
        retinanet.train(config(), run, **given, resume=True)


def test_resuming_with_the_recorded_config_but_without_parts_is_refused(run):
    with pytest.raises(InputError, match=rf"uses a custom model, {MODULE}.OneLevel; pass it .*model="):
        retinanet.train(run / "config.yaml", run, resume=True)


def test_resuming_with_other_images_is_refused(run):
    with pytest.raises(InputError, match=r"was trained on 6 images, but data.train has 7"):
        retinanet.train(config(), run, **parts() | {"dataset": NoiseDataset(7)}, resume=True)


@pytest.mark.parametrize("missing", ["model", "loss", "dataset"])
def test_evaluation_without_a_part_is_refused_by_name(missing, run):
    given = {"dataset": NoiseDataset(2, first=6), "model": OneLevel(), "loss": CrossEntropy()}
    name = type(given.pop(missing)).__name__
    with pytest.raises(InputError, match=rf"last.pt: uses a custom .*{MODULE}.{name}; pass it in Python: .*{missing}="):
        retinanet.evaluate(run / "checkpoints/last.pt", **given)


def test_predictor_needs_the_model_alone(run):
    last = run / "checkpoints/last.pt"
    predictor = retinanet.Predictor.from_checkpoint(last, "postprocess.min_score=0", model=OneLevel())
    assert len(predictor(NoiseDataset().read_image(0)))
    with pytest.raises(InputError, match=rf"uses a custom model, {MODULE}.OneLevel; pass it .*from_checkpoint"):
        retinanet.Predictor.from_checkpoint(last)
    with pytest.raises(InputError, match=r"the weights do not fit .*OneLevel"):
        retinanet.Predictor.from_checkpoint(last, model=OneLevel(num_classes=3))
    with pytest.raises(InputError, match=r"model has no effect with the custom part"):
        retinanet.Predictor.from_checkpoint(last, "model.channels=64", model=OneLevel())
    with pytest.raises(InputError, match=r"inference.compile: .*OneLevel is not compiled"):
        retinanet.Predictor.from_checkpoint(last, "inference.compile=true", model=OneLevel())


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["eval", "{run}"], r"retinanet.evaluate\(.*model=..., loss=..., dataset=...\)"),
        (["predict", "{run}", "{run}", "--output", "drawn"], r"retinanet.Predictor.from_checkpoint\(.*, model=...\)"),
        (["train", "--resume", "{run}"], r"retinanet.train\(.*resume=True\)"),
    ],
)
def test_command_says_how_to_use_the_checkpoint_in_python(arguments, advice, run, capfd):
    assert main([argument.format(run=run) for argument in arguments]) != 0
    assert re.search(advice, capfd.readouterr().err)


def test_initial_weights_of_a_custom_model_must_fit_it(run, tmp_path):
    last = str(run / "checkpoints/last.pt")
    cfg = config(init_from=last, steps=1)
    retinanet.train(cfg, tmp_path / "same", **parts())
    with pytest.raises(InputError, match=rf"custom model, {MODULE}.OneLevel, whose weights fit only that model"):
        retinanet.train(cfg, tmp_path / "other", dataset=NoiseDataset())


def test_custom_model_starts_from_a_published_folder(tmp_path):
    trained = Checkpoint(config(), ("cat", "dog"), (1, 2), 1, {"model": own_retinanet().state_dict()})
    folder, model = published(tmp_path / "published", trained), own_retinanet()
    torch.nn.init.zeros_(model.fpn.laterals[0].weight)
    load_initial_weights(model, config(init_from=str(folder)), is_resumed=False)
    assert all(value.equal(trained.weights()[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_spawned_workers_read_the_dataset(run, tmp_path):
    cfg = config()
    cfg = cfg.model_copy(update={"data": cfg.data.model_copy(update={"workers": 1})})
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        retinanet.train(cfg, tmp_path / "run", **parts())
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert metrics_without_times(tmp_path / "run") == metrics_without_times(run)


def test_keys_without_effect_are_refused(tmp_path):
    cfg = config()
    cfg = cfg.model_copy(update={"data": cfg.data.model_copy(update={"val_fraction": 0.5})})
    with pytest.raises(InputError, match=r"data.val_fraction have no effect on .*NoiseDataset"):
        retinanet.train(cfg, tmp_path / "run", dataset=NoiseDataset())
    with pytest.raises(InputError, match=r"model: found <class .*OneLevel'>, expected an object"):
        retinanet.train(config(), tmp_path / "run", dataset=NoiseDataset(), model=OneLevel)
    assert not (tmp_path / "run").exists()
