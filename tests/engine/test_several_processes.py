"""A run shared by several processes gives the same results as a run of one process."""

import itertools
import json
import math

import pytest
import torch
from torch.testing import assert_close

from retinanet.checkpoint.file import read_checkpoint
from retinanet.config.load import load_config
from retinanet.data.build import build_train_sampler, check_batch_size, load_train_data, local_batches
from retinanet.engine.setup import check_norm
from retinanet.engine.train import train
from retinanet.errors import InputError
from tests.helpers.first_step import first_step, trained_weights
from tests.helpers.metrics import read_metrics
from tests.helpers.processes import run_together

TRAIN = """
    import json, sys
    from retinanet.config.load import load_config
    from retinanet.engine.train import train
    folder, *overrides = sys.argv[1:]
    result = train(load_config("quickstart", overrides), folder)
    print(json.dumps({"step": result.step, "metrics": result.metrics}))
"""
FIRST_STEP = """
    import sys, torch, warnings
    from retinanet.config.load import load_config
    from retinanet.runtime.distributed import process_group, rank
    from tests.helpers.first_step import first_step
    file, *overrides = sys.argv[1:]
    warnings.filterwarnings("error", category=FutureWarning, module="retinanet")
    with process_group(torch.device("cpu"), timeout=300):
        torch.save(first_step(load_config("quickstart", overrides)), f"{file}.{rank()}")
"""
TRAINED_WEIGHTS = """
    import json, sys, torch
    from retinanet.config.load import load_config
    from retinanet.runtime.distributed import is_main, process_group
    from tests.helpers.first_step import trained_weights
    file, rows, num_steps = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    torch.use_deterministic_algorithms(True)
    with process_group(torch.device("cpu"), timeout=300):
        weights = [trained_weights(load_config("quickstart", overrides), num_steps)[1] for overrides in rows]
        if is_main():
            torch.save(weights, file)
"""
EVALUATE = """
    import sys
    from retinanet.cli.eval import main
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def overrides(tiny_overrides):
    return [
        *tiny_overrides,
        "train.batch_size=8",
        "train.steps=10",
        "train.eval_every=10",
        "train.save_every=10",
        "train.log_every=5",
        "train.warmup_steps=0",
        # A low learning rate: unstable training would amplify rounding differences, 1.5e-8 after the first step.
        "train.optimizer={type: sgd, lr: 0.001}",
        "model.backbone.norm=frozen",
    ]


def weights(folder):
    return read_checkpoint(folder / "checkpoints/last.pt").weights(average=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "head_norm", "processes", "accumulate"),
    [
        ("frozen", "group", 2, 1),
        ("frozen", "group", 3, 2),
        ("sync", "group", 2, 2),
        ("sync", "sync_per_level", 2, 2),
    ],
)
def test_first_step_does_not_depend_on_how_the_batch_is_split(
    overrides, tmp_path, norm, head_norm, processes, accumulate
):
    settings = [*overrides, f"model.backbone.norm={norm}", f"model.head_norm={head_norm}"]
    # Synchronised norms share statistics within one accumulation step, so a single process must accumulate as well.
    alone = [f"train.accumulate={accumulate}"] if norm == "sync" else []
    expected = first_step(load_config("quickstart", [*settings, *alone]))
    assert len(expected["gradients"]) > 30 and expected["num_positive"] > 8
    assert ("backbone.bn1.num_batches_tracked" in expected["statistics"]) == (norm == "sync")
    largest = max(gradient.norm() for gradient in expected["gradients"].values())
    file = tmp_path / "step"
    run_together(processes, FIRST_STEP, [str(file), *settings, f"train.accumulate={accumulate}"])
    for number in range(processes):
        result = torch.load(f"{file}.{number}", weights_only=True)
        assert result.keys() == expected.keys()
        assert result["num_positive"] == expected["num_positive"]
        assert_close(result["losses"], expected["losses"], rtol=1e-6, atol=0)  # box losses are computed in float32
        assert_close(result["statistics"], expected["statistics"], rtol=1e-9, atol=1e-12)
        for name, gradient in expected["gradients"].items():
            if gradient.norm() < 1e-12 * largest:
                continue  # only rounding: batch norm cancels the bias of a level with one position
            distance = (result["gradients"][name] - gradient).norm() / gradient.norm()
            assert distance < 1e-6, (name, distance)


@pytest.mark.slow
def test_run_does_not_depend_on_how_batches_are_split(overrides, tmp_path):
    """Processes x images: 1 x 8, 1 x 4 accumulated twice, 2 x 4, 3 x (2 or 3)."""
    alone = train(load_config("quickstart", overrides), tmp_path / "alone")
    twice = train(load_config("quickstart", [*overrides, "train.accumulate=2"]), tmp_path / "twice")
    printed = {
        count: run_together(count, TRAIN, [str(tmp_path / str(count)), *overrides], timeout=600) for count in (2, 3)
    }
    expected = weights(alone.folder)
    lines = read_metrics(alone.folder)
    for folder in (twice.folder, *(tmp_path / str(count) for count in printed)):
        for name, value in weights(folder).items():
            assert_close(value, expected[name], rtol=0, atol=1e-5)
        for result, line in zip(read_metrics(folder), lines, strict=True):
            for name in ("loss", "class_loss", "box_loss", "grad_norm", "positive_anchors", "AP"):
                if name in line:
                    assert math.isclose(result[name], line[name], rel_tol=1e-3, abs_tol=1e-4), (folder, name)
    for count, texts in printed.items():
        results = [json.loads(text.splitlines()[-1]) for text in texts]
        assert results == [results[0]] * count  # every process returns the metrics


# Upper limits for the distance between the weights of one and two processes after ten steps from random weights, as a
# share of the distance that the weights moved. It comes from rounding, which training amplifies, more so with AdamW,
# where small gradients move weights as far as large ones. The largest distances measured were 3e-6
# with SGD, and 2e-5, 6e-6 and 0.013 for the three norms with AdamW (torch 2.14.1, a CPU with AVX-512, one thread each).
# Unrelated gradients give 1.4.
AGREEMENT = {"{type: sgd, lr: 1e-3}": 1e-3, "{type: adamw, lr: 1e-4}": 0.1}


@pytest.mark.slow
@pytest.mark.usefixtures("restore_process_settings")
def test_weights_of_one_and_two_processes_stay_close(overrides, tmp_path):
    """For each norm and optimizer; docs/distributed.md has measurements."""
    num_steps = 10
    rows = list(itertools.product(("frozen", "group", "sync"), AGREEMENT))
    settings = [
        [*overrides, "train.batch_size=4", f"model.backbone.norm={norm}", f"train.optimizer={optimizer}"]
        for norm, optimizer in rows
    ]
    run_together(2, TRAINED_WEIGHTS, [str(tmp_path / "two"), json.dumps(settings), str(num_steps)], timeout=600)
    torch.use_deterministic_algorithms(True)
    for (norm, optimizer), keys, two in zip(rows, settings, torch.load(tmp_path / "two"), strict=True):
        before, alone = trained_weights(load_config("quickstart", keys), num_steps)
        assert 0 < (two - alone).norm() / (alone - before).norm() < AGREEMENT[optimizer], (norm, optimizer)


@pytest.mark.slow
def test_scores_are_bit_identical_for_any_number_of_processes(overrides, tmp_path):
    run = train(load_config("quickstart", [*overrides, "train.batch_size=3"]), tmp_path / "run")
    checkpoint = str(run.folder / "checkpoints/last.pt")
    for count in (1, 2, 3):
        # After ten steps, all scores are low: the usual threshold would leave no detections.
        keys = ["postprocess.min_score=0.001"]
        run_together(count, EVALUATE, [checkpoint, "--output", str(tmp_path / str(count)), *keys])
    first = tmp_path / "1"
    for count in (2, 3):
        for name in ("evaluation.json", "detections.json"):
            assert (tmp_path / str(count) / name).read_bytes() == (first / name).read_bytes(), (count, name)
    assert json.loads((first / "detections.json").read_text())


@pytest.mark.slow
def test_first_step_with_synchronised_norms_is_the_same_on_one_and_two_processes(overrides, tmp_path):
    """Compare loss, gradient norm and statistics only after the first step: later steps amplify rounding errors."""
    settings = [*overrides, "model.backbone.norm=sync", "train.steps=1", "train.log_every=1", "train.accumulate=2"]
    alone = train(load_config("quickstart", settings), tmp_path / "alone")
    run_together(2, TRAIN, [str(tmp_path / "two"), *settings])
    result, expected = read_metrics(tmp_path / "two")[0], read_metrics(alone.folder)[0]
    assert result["positive_anchors"] == expected["positive_anchors"]
    for name in ("loss", "class_loss", "box_loss", "grad_norm"):
        assert math.isclose(result[name], expected[name], rel_tol=1e-3), name
    statistics = {name: value for name, value in weights(alone.folder).items() if "running_" in name}
    assert len(statistics) == 24  # mean and variance of 12 norms
    for name, value in statistics.items():
        assert_close(weights(tmp_path / "two")[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_processes_share_exactly_the_planned_batches(overrides, monkeypatch, world_size, accumulate):
    cfg = load_config("quickstart", [*overrides, "train.batch_size=12"])
    data, num_batches = load_train_data(cfg), 9
    of_ranks = []
    for rank in range(world_size):
        monkeypatch.setattr("retinanet.data.build.rank", lambda rank=rank: rank)
        monkeypatch.setattr("retinanet.data.build.world_size", lambda: world_size)
        of_ranks.append(list(local_batches(itertools.islice(build_train_sampler(cfg, data), num_batches), accumulate)))
    for number, batch in enumerate(itertools.islice(build_train_sampler(cfg, data), num_batches)):
        parts = [rank[number * accumulate + part] for part in range(accumulate) for rank in of_ranks]
        assert list(itertools.chain(*parts)) == batch
        assert all(parts)


def test_batch_too_small_to_share_is_refused(overrides, monkeypatch):
    monkeypatch.setattr("retinanet.data.build.world_size", lambda: 5)
    with pytest.raises(InputError, match=r"train\.batch_size is 8.*5 processes.*at least 10"):
        check_batch_size(load_config("quickstart", [*overrides, "train.accumulate=2"]))


def test_batch_norm_on_several_processes_is_refused_unless_allowed(overrides, monkeypatch):
    cfg = load_config("quickstart", [*overrides, "model.backbone.norm=batch"])
    check_norm(cfg)
    monkeypatch.setattr("retinanet.engine.setup.world_size", lambda: 2)
    with pytest.raises(InputError, match=r"sync.*group.*frozen.*allow_local_norm"):
        check_norm(cfg)
    check_norm(load_config("quickstart", [*overrides, "model.backbone.norm=batch", "train.allow_local_norm=true"]))


def test_batch_norm_per_level_on_several_processes_is_refused_unless_allowed(overrides, monkeypatch):
    settings = [*overrides, "model.backbone.norm=frozen", "model.head_norm=batch_per_level"]
    check_norm(load_config("quickstart", settings))
    monkeypatch.setattr("retinanet.engine.setup.world_size", lambda: 2)
    with pytest.raises(InputError, match=r"model\.head_norm is batch_per_level .* to sync_per_level .*group or none"):
        check_norm(load_config("quickstart", settings))
    check_norm(load_config("quickstart", [*settings, "train.allow_local_norm=true"]))
    check_norm(load_config("quickstart", [*settings, "model.head_norm=sync_per_level"]))


@pytest.mark.parametrize(
    ("settings", "warns"),
    [
        (["model.backbone.norm=frozen", "model.head_norm=batch_per_level", "train.accumulate=2"], True),
        (["model.backbone.norm=frozen", "model.head_norm=sync_per_level", "train.accumulate=1"], False),
        (["model.backbone.norm=batch", "train.accumulate=2"], True),
        (["model.backbone.norm=sync", "train.accumulate=4"], True),
        (["model.backbone.norm=batch", "train.accumulate=1"], False),
        (["model.backbone.norm=group", "train.accumulate=2"], False),
        (["model.backbone.norm=frozen", "train.accumulate=2"], False),
        (
            ["model.backbone={name: resnet18, norm: batch, weights: imagenet, frozen_stages: 5}", "train.accumulate=2"],
            False,
        ),
    ],
)
def test_accumulation_that_changes_the_statistics_of_norms_causes_a_warning(overrides, caplog, settings, warns):
    check_norm(load_config("quickstart", [*overrides, *settings]))
    assert ("gradients differ from those of the whole batch" in caplog.text) == warns


@pytest.mark.parametrize("norm", ["group", "frozen", "batch", "sync"])
def test_accumulation_changes_gradients_only_with_batch_statistics(overrides, norm):
    settings = [*overrides, f"model.backbone.norm={norm}"]
    whole, parts = (
        torch.cat(
            [grad.flatten() for grad in first_step(load_config("quickstart", [*settings, key]))["gradients"].values()]
        )
        for key in ("train.accumulate=1", "train.accumulate=2")
    )
    distance = (parts - whole).norm() / whole.norm()
    if norm in ("group", "frozen"):
        assert distance < 1e-12
    else:
        assert distance > 0.1  # 1.05 measured on images of 64 pixels and random weights


@pytest.mark.slow
def test_run_with_local_norms_finishes_and_saves_finite_statistics(overrides, tmp_path):
    settings = [*overrides, "model.backbone.norm=batch", "train.allow_local_norm=true", "train.steps=2"]
    printed = run_together(2, TRAIN, [str(tmp_path / "two"), *settings])
    assert [json.loads(text.splitlines()[-1])["step"] for text in printed] == [2, 2]
    assert torch.isfinite(weights(tmp_path / "two")["backbone.bn1.running_var"]).all()
