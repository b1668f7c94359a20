"""Complete runs on LVIS annotations."""

import json
import math

import pytest
import torch

from retinanet.checkpoint.file import read_checkpoint
from retinanet.config import Config
from tests.helpers.lvis_files import write_tiny_lvis
from tests.helpers.states import assert_same_state
from tests.helpers.tiny_runs import record_of_run

pytestmark = pytest.mark.usefixtures("restore_process_settings")


def config(source, **train) -> Config:
    values = {
        "data": {"train": [source], "val": [source], "workers": 0,
                 "resize": {"shorter": [32], "longer": 64, "divisor": 8},
                 "transforms": [{"type": "mosaic", "p": 0.3}, {"type": "resize"}, {"type": "flip"}],
                 "sampling": {"type": "repeat_factor", "threshold": 1.0}},
        "model": {"backbone": {"weights": "none", "frozen_stages": 0, "norm": "frozen"}, "channels": 4,
                  "head_convs": 1},
        "train": {"steps": 6, "batch_size": 2, "log_every": 2, "eval_every": 3, "save_every": 3, "warmup_steps": 0,
                  "optimizer": {"type": "sgd", "weight_decay": 0.0}, "deterministic": True, "precision": "fp32",
                  **train},
    }  # fmt: skip
    return Config.model_validate_json(json.dumps(values))


def class_logits_that_changed(folder) -> list[bool]:
    """For each class, whether the weights or biases of its logits changed between the two checkpoints of a run."""
    files = sorted((folder / "checkpoints").glob("step_*.pt"))
    first, last = (dict(read_checkpoint(file).weights(average=False)) for file in files)
    names = [name for name in first if name.startswith("head.class_subnet.2.")]
    # Parameters of the last convolution of the subnet, grouped by anchor: (9 * 3, ...).
    changed = [(first[name] != last[name]).reshape(9, 3, -1).any(2).any(0) for name in names]
    assert len(changed) == 2
    return torch.stack(changed).any(0).tolist()


def test_class_that_was_not_annotated_is_not_trained(tmp_path):
    runs = {}
    for name, federated in (("lvis", True), ("coco", False)):
        source = write_tiny_lvis(tmp_path / f"{name} data", federated=federated)
        runs[name] = record_of_run(config(source, steps=2, save_every=1, eval_every=2), tmp_path / name)
        assert runs[name]["error"] is None
        losses = [line["loss"] for line in runs[name]["metrics"] if line["kind"] == "eval"]
        assert losses and all(map(math.isfinite, losses))
    # With complete annotations, all classes are trained: the absence of cow boxes then means that there are no cows.
    assert class_logits_that_changed(tmp_path / "coco") == [True, True, True]
    assert class_logits_that_changed(tmp_path / "lvis") == [True, True, False]


def test_stopped_run_is_resumed_bit_for_bit(tmp_path):
    source = write_tiny_lvis(tmp_path / "data")
    whole = record_of_run(config(source), tmp_path / "whole")
    stopped = record_of_run(config(source, max_hours=1e-9), tmp_path / "parts")
    assert stopped["result"]["step"] < whole["result"]["step"] == 6
    resumed = record_of_run(config(source), tmp_path / "parts", resume=True)
    assert resumed["result"]["step"] == 6
    assert_same_state(resumed["weights"], whole["weights"])
    assert resumed["metrics"][-1] == whole["metrics"][-1]
