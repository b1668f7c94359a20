"""One run shared by several processes is the same run."""

import itertools
import json
import math

import pytest
import torch
from torch.testing import assert_close

from retinanet.checkpoint.file import read_checkpoint
from retinanet.config.load import load_config
from retinanet.data.build import check_shares, load_train_data, shares, train_plan
from retinanet.engine.metrics_log import read_metrics
from retinanet.engine.setup import check_norm
from retinanet.engine.train import train
from retinanet.errors import InputError
from tests.processes import run_together

TRAIN = """
    import json, sys
    from retinanet.config.load import load_config
    from retinanet.engine.train import train
    folder, *overrides = sys.argv[1:]
    result = train(load_config("quickstart", overrides), folder)
    print(json.dumps({"step": result.step, "metrics": result.metrics}))
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
        # What is left is rounding, which a training that is still wild would blow up: 1.5e-8 after the first step.
        "train.optimizer={type: sgd, lr: 0.001}",
        "model.backbone.norm=frozen",
    ]


def weights(folder):
    return read_checkpoint(folder / "checkpoints/last.pt")["model"]


@pytest.mark.slow
def test_however_a_batch_is_shared_the_weights_are_the_same(overrides, tmp_path):
    """1 x 8 images, 1 x 4 twice, 2 x 4, 3 x (2 or 3), 4 x 2."""
    alone = train(load_config("quickstart", overrides), tmp_path / "alone")
    twice = train(load_config("quickstart", [*overrides, "train.accumulate=2"]), tmp_path / "twice")
    told = {
        count: run_together(count, TRAIN, [str(tmp_path / str(count)), *overrides], timeout=600) for count in (2, 3, 4)
    }
    start = read_checkpoint(alone.folder / "checkpoints/last.pt")["model"]
    lines = read_metrics(alone.folder)
    for folder in (twice.folder, *(tmp_path / str(count) for count in told)):
        for name, value in weights(folder).items():
            assert_close(value, start[name], rtol=0, atol=1e-5)
        for ours, theirs in zip(read_metrics(folder), lines, strict=True):
            for name in ("loss", "class_loss", "box_loss", "grad_norm", "positive_anchors", "AP"):
                if name in theirs:
                    assert math.isclose(ours[name], theirs[name], rel_tol=1e-3, abs_tol=1e-4), (folder, name)
    for count, texts in told.items():
        results = [json.loads(text.splitlines()[-1]) for text in texts]
        assert results == [results[0]] * count  # every process knows the figures


@pytest.mark.slow
def test_the_score_is_the_same_to_the_last_digit_for_any_number_of_processes(overrides, tmp_path):
    run = train(load_config("quickstart", [*overrides, "train.batch_size=3"]), tmp_path / "run")
    checkpoint = str(run.folder / "checkpoints/last.pt")
    for count in (1, 2, 3):
        # A network of ten steps is sure of nothing: what it finds lies below the usual threshold.
        keys = ["postprocess.min_score=0.001"]
        run_together(count, EVALUATE, [checkpoint, "--output", str(tmp_path / str(count)), *keys])
    first = tmp_path / "1"
    for count in (2, 3):
        for name in ("evaluation.json", "detections.json"):
            assert (tmp_path / str(count) / name).read_bytes() == (first / name).read_bytes(), (count, name)
    assert json.loads((first / "detections.json").read_text())


@pytest.mark.slow
def test_synchronised_norms_make_two_processes_one(overrides, tmp_path):
    settings = [*overrides, "model.backbone.norm=sync", "train.steps=4", "train.accumulate=2"]
    alone = train(load_config("quickstart", settings), tmp_path / "alone")
    run_together(2, TRAIN, [str(tmp_path / "two"), *settings])
    for name, value in weights(alone.folder).items():
        assert_close(weights(tmp_path / "two")[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_processes_share_exactly_the_batches_of_the_plan(overrides, monkeypatch, world_size, accumulate):
    cfg = load_config("quickstart", [*overrides, "train.batch_size=12"])
    data, num_batches = load_train_data(cfg), 9
    of_ranks = []
    for rank in range(world_size):
        monkeypatch.setattr("retinanet.data.build.rank", lambda rank=rank: rank)
        monkeypatch.setattr("retinanet.data.build.world_size", lambda: world_size)
        of_ranks.append(list(shares(itertools.islice(train_plan(cfg, data), num_batches), accumulate)))
    for number, batch in enumerate(itertools.islice(train_plan(cfg, data), num_batches)):
        parts = [rank[number * accumulate + part] for part in range(accumulate) for rank in of_ranks]
        assert list(itertools.chain(*parts)) == batch
        assert all(parts)


def test_a_batch_too_small_to_share_is_refused(overrides, monkeypatch):
    monkeypatch.setattr("retinanet.data.build.world_size", lambda: 5)
    with pytest.raises(InputError, match=r"train\.batch_size is 8.*5 processes.*at least 10"):
        check_shares(load_config("quickstart", [*overrides, "train.accumulate=2"]))


def test_norms_that_would_differ_between_processes_are_refused(overrides, monkeypatch):
    cfg = load_config("quickstart", [*overrides, "model.backbone.norm=batch"])
    check_norm(cfg)
    monkeypatch.setattr("retinanet.engine.setup.world_size", lambda: 2)
    with pytest.raises(InputError, match=r"sync.*group.*frozen.*allow_local_norm"):
        check_norm(cfg)
    check_norm(load_config("quickstart", [*overrides, "model.backbone.norm=batch", "train.allow_local_norm=true"]))


@pytest.mark.slow
def test_local_norms_are_those_of_the_main_process_when_saved_and_scored(overrides, tmp_path):
    settings = [*overrides, "model.backbone.norm=batch", "train.allow_local_norm=true", "train.steps=2"]
    told = run_together(2, TRAIN, [str(tmp_path / "two"), *settings])
    assert [json.loads(text.splitlines()[-1])["step"] for text in told] == [2, 2]
    assert torch.isfinite(weights(tmp_path / "two")["backbone.bn1.running_var"]).all()
