"""Complete runs on the bundled shapes dataset."""

import json
import math
import shutil

import pytest
import torch

from retinanet.checkpoint.file import read_checkpoint
from retinanet.config import CrossEntropyConfig
from retinanet.config.load import load_config
from retinanet.engine.run_files import LOCK_FILE
from retinanet.engine.train import train
from retinanet.errors import InputError
from retinanet.inference.predictor import Predictor
from retinanet.losses.build import build_loss
from retinanet.losses.class_weights import inverse_frequency
from tests.helpers.metrics import metrics_without_times
from tests.helpers.states import assert_same_checkpoint


@pytest.fixture
def run(tmp_path, tiny_overrides):
    def start(name: str, *overrides: str, **arguments):
        return train(load_config("quickstart", [*tiny_overrides, *overrides]), tmp_path / name, **arguments)

    return start


@pytest.fixture
def finished(tiny_run, tmp_path):
    """A folder with a run that is complete, in which `run("finished")` would train."""
    return shutil.copytree(tiny_run.folder, tmp_path / "finished", symlinks=True)


def test_run_writes_all_its_files(tiny_run):
    result = tiny_run
    assert result.step == 8 and not result.diverged
    assert {
        "config.yaml", "environment.json", "log.txt", "metrics.jsonl", "tensorboard", "checkpoints", "report.html",
    } <= {path.name for path in result.folder.iterdir()}  # fmt: skip
    assert (result.folder / "log.txt").read_text().rstrip().endswith(f"report: {result.folder / 'report.html'}")
    assert load_config(result.folder / "config.yaml").train.steps == 8
    lines = metrics_without_times(result.folder)
    assert [line["step"] for line in lines if line["kind"] == "train"] == [2, 4, 6, 8]
    assert [line["step"] for line in lines if line["kind"] == "eval"] == [4, 8]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert {"AP", "AP50", "loss", "AP/star"} <= set(lines[-1])
    assert json.loads((result.folder / "environment.json").read_text())["packages"]["torch"] in torch.__version__
    assert read_checkpoint(result.folder / "checkpoints/last.pt").step == 8
    assert read_checkpoint(result.folder / "checkpoints/best.pt").step in (4, 8)


def test_runs_are_equal_with_the_same_seed_and_differ_with_another(tiny_run, run):
    assert metrics_without_times(run("again").folder) == metrics_without_times(tiny_run.folder)
    other = metrics_without_times(run("other", "train.seed=1", "data.val=[]").folder)
    assert other[0]["loss"] != metrics_without_times(tiny_run.folder)[0]["loss"]


@pytest.mark.slow
def test_metrics_do_not_depend_on_the_number_of_workers(tiny_run, run):
    assert metrics_without_times(run("two", "data.workers=2").folder) == metrics_without_times(tiny_run.folder)


def test_resumed_run_is_bit_identical_to_an_uninterrupted_one(tiny_run, run, monkeypatch):
    from retinanet.engine import train as module

    calls = []
    with monkeypatch.context() as patch:
        real = module.train_loader

        class Failing:
            def __init__(self, batches):
                self.batches = batches

            def __iter__(self):
                return self

            def __next__(self):
                calls.append(1)
                if len(calls) == 7:
                    raise KeyboardInterrupt
                return next(self.batches)

        patch.setattr(module, "train_loader", lambda *a, **k: Failing(real(*a, **k)))
        with pytest.raises(KeyboardInterrupt):
            run("broken")
    resumed = run("broken", resume=True)
    assert metrics_without_times(resumed.folder) == metrics_without_times(tiny_run.folder)
    first = read_checkpoint(tiny_run.folder / "checkpoints/last.pt")
    second = read_checkpoint(resumed.folder / "checkpoints/last.pt")
    assert_same_checkpoint(first, second)


def test_automatic_resume_without_a_checkpoint_starts_from_the_beginning_and_logs_it(run, tmp_path):
    result = run("empty", "train.steps=2", "data.val=[]", resume="auto")
    assert result.step == 2
    assert "starting from the beginning" in (result.folder / "log.txt").read_text()


def test_folder_that_contains_a_run_is_refused_without_overwrite(finished, run):
    before = (finished / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"--resume.*--overwrite"):
        run("finished")
    assert (finished / "metrics.jsonl").read_bytes() == before
    assert run("finished", "train.steps=2", "data.val=[]", overwrite=True).step == 2
    assert [line["step"] for line in metrics_without_times(finished)] == [2]


def test_input_error_in_an_overwriting_run_leaves_the_old_run_untouched(finished, run):
    def times() -> dict:
        files = [path for path in finished.rglob("*") if path.is_file() and path.name != LOCK_FILE]
        return {path: path.stat().st_mtime_ns for path in files}

    before = times()
    with pytest.raises(InputError, match=r"data\.train\.images"):
        run("finished", "data.train.images=nowhere", overwrite=True)
    assert times() == before


def test_resuming_with_a_different_network_is_refused(finished, run):
    with pytest.raises(InputError, match=r"model\.channels: it was 64, now 96"):
        run("finished", "model.channels=96", resume=True)


def test_diverging_run_stops_and_reports_it(run):
    with pytest.raises(InputError, match="diverged"):
        run("wild", "train.optimizer.lr=1e30", "train.clip_norm=null", "train.warmup_steps=0", "train.log_every=1")


@pytest.mark.slow  # float16 is emulated on most CPUs
def test_overflow_in_float16_is_skipped_and_training_continues(run):
    # At the initial scale of 65536, the class loss with weight 1000 exceeds the range of float16.
    result = run("overflow", "train.precision=fp16", "loss.class_weight=1000", "train.log_every=1", "train.steps=16")
    lines = [line for line in metrics_without_times(result.folder) if line["kind"] == "train"]
    assert lines[0]["skipped_share"] == 1 and lines[-1]["skipped_share"] == 0
    assert all(math.isfinite(line["grad_norm"]) for line in lines)
    assert read_checkpoint(result.folder / "checkpoints/last.pt").state["scaler"]["scale"] < 65536


@pytest.mark.slow
def test_run_resumes_from_the_previous_checkpoint_if_the_last_is_damaged(tiny_run, finished, run):
    newest = finished / "checkpoints/step_00000008.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    resumed = run("finished", resume=True)
    assert "step_00000008.pt: damaged" in (resumed.folder / "log.txt").read_text()
    assert metrics_without_times(resumed.folder) == metrics_without_times(tiny_run.folder)


@pytest.mark.parametrize("change", ["loss.classification.gamma=1.0", "data.resize.shorter=96", "train.eval_every=2"])
def test_resuming_with_different_training_settings_is_refused(finished, run, change):
    with pytest.raises(InputError, match=change.split("=")[0].replace(".", r"\.")):
        run("finished", change, resume=True)


def test_folder_that_is_not_a_run_is_left_alone(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.yaml").write_text("mine: true")
    with pytest.raises(InputError, match=r"config\.yaml, but is not a run folder"):
        run("mine", overwrite=True)
    assert (tmp_path / "mine/config.yaml").read_text() == "mine: true"


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_loss_is_finite_in_lower_precision(run, precision):
    result = run(precision, f"train.precision={precision}", "train.steps=4", "data.val=[]")
    assert all(math.isfinite(line["loss"]) for line in metrics_without_times(result.folder))


@pytest.mark.parametrize(("box_loss", "optimizer"), [("giou", "sgd"), ("smooth_l1", "adamw")])
def test_loss_decreases_with_each_optimizer(run, box_loss, optimizer):
    parts = [f"loss.box={{type: {box_loss}}}", f"train.optimizer={{type: {optimizer}, lr: 0.002}}"]
    result = run(box_loss, *parts, "data.val=[]")
    losses = [line["loss"] for line in metrics_without_times(result.folder) if line["kind"] == "train"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("class_loss", "box_loss"),
    [
        ("focal_star", "diou"),
        ("hinge", "ciou"),
        ("ohem, keep: 16, one_to_three: true", "giou"),
        ("quality_focal", "ciou"),
        ("varifocal", "diou"),
    ],
)
def test_two_steps_of_less_common_losses_are_finite(run, class_loss, box_loss):
    parts = [f"loss.classification={{type: {class_loss}}}", f"loss.box={{type: {box_loss}}}"]
    result = run("loss", *parts, "train.steps=2", "train.log_every=1", "data.val=[]")
    lines = [line for line in metrics_without_times(result.folder) if line["kind"] == "train"]
    assert all(math.isfinite(line["loss"]) and 0 < line["grad_norm"] < math.inf for line in lines)


def test_inverse_frequency_weights_are_saved_as_numbers(run, shapes):
    document = json.loads((shapes / "train.json").read_text())
    ids = sorted(category["id"] for category in document["categories"])
    objects = [item["category_id"] for item in document["annotations"] if not item["iscrowd"]]
    weights = inverse_frequency([objects.count(i) for i in ids])
    overrides = ["loss.classification={type: cross_entropy, alpha: inverse_frequency}", "data.val=[]"]
    folder = run("weighed", *overrides, "train.steps=4").folder
    cfg = load_config(folder / "config.yaml")
    assert cfg.loss.classification == CrossEntropyConfig(alpha=weights)
    build_loss(cfg.loss, num_classes=len(ids))  # evaluation and replay do not need the training data
    # The run can be resumed with either the keyword or the resulting numbers.
    assert run("weighed", *overrides, "train.steps=4", resume=True).step == 4
    assert train(cfg, folder, resume=True).step == 4


def test_wrong_number_of_class_weights_is_refused(run):
    with pytest.raises(InputError, match=r"loss\.classification\.alpha has 2 values for 6 classes"):
        run("other", "loss.classification.alpha=[0.5, 0.5]")


def test_run_without_a_validation_set_has_no_best_checkpoint(run):
    result = run("no_val", "data.val=[]")
    assert math.isnan(result.best) and result.best_metric == "AP"
    assert not (result.folder / "checkpoints/best.pt").exists()


@pytest.mark.slow
def test_eight_training_images_reach_an_ap_of_0_9(tmp_path, shapes):
    """The run is evaluated on its training images.

    It uses group norm. With batch norm, the network would rely on the statistics of training batches, which are not
    available in evaluation.
    """
    document = json.loads((shapes / "train.json").read_text())
    chosen = {image["id"] for image in document["images"][:8]}
    document["images"] = document["images"][:8]
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in chosen]
    (tmp_path / "eight.json").write_text(json.dumps(document))
    source = [
        f"data.{part}={{images: {shapes / 'train'}, annotations: {tmp_path}/eight.json}}" for part in ("train", "val")
    ]
    overrides = [
        *source, "data.workers=0", "data.transforms=[{type: resize}]", "data.resize.shorter=96",
        "model.backbone.name=resnet10_half", "model.backbone.norm=group", "model.channels=64", "model.head_convs=1",
        "train.optimizer.lr=2e-3", "train.epochs=null", "train.steps=150", "train.eval_every=150",
    ]  # fmt: skip
    result = train(load_config("shapes_r18", overrides), tmp_path / "run")
    assert result.metrics["AP"] > 0.9
    predictor = Predictor.from_checkpoint(result.folder / "checkpoints/best.pt")
    assert predictor.class_names[0] == document["categories"][0]["name"]
