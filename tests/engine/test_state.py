"""The training state: restoring it from a checkpoint, and the weights used for evaluation."""

import io
from pathlib import Path

import pytest
import torch

from retinanet.checkpoint.file import Checkpoint, read_checkpoint
from retinanet.config import Config, TrainConfig
from retinanet.config.load import load_config
from retinanet.engine import train as loop
from retinanet.engine.state import TrainState, build_state
from tests.helpers.datasets import dataset_of, image_record
from tests.helpers.models import model_config
from tests.helpers.states import is_same_state
from tests.helpers.steps import NUM_CLASSES, batch_of, step_of

pytestmark = pytest.mark.usefixtures("restore_process_settings")

CPU = torch.device("cpu")


def config_of(ema_decay: float | None = 0.9) -> Config:
    model = model_config(norm="batch", channels=64, head_convs=1)
    return Config(model=model, train=TrainConfig(steps=10, ema_decay=ema_decay, warmup_steps=5))


def state_of(cfg: Config, dtype: torch.dtype = torch.float16) -> TrainState:
    torch.manual_seed(0)
    data = dataset_of([image_record("1.png")], class_names=tuple(f"class {number}" for number in range(NUM_CLASSES)))
    return build_state(cfg, data, num_steps=10, device=CPU, dtype=dtype, compile=False, resume_from=None)


def trained_state() -> TrainState:
    """A state in which every part has changed, after a step, a skipped step and an evaluation."""
    state = state_of(config_of())
    step = step_of(state.model)  # in float32, which is faster on a CPU; only the scaler is configured for float16
    step.optimizer, step.scaler, step.guard, step.ema = state.optimizer, state.scaler, state.guard, state.ema
    losses = step([batch_of()], 1)
    state.running.add(losses)
    state.divergence.add(losses.losses)
    state.schedule.step()
    state.guard.mask(torch.tensor(torch.inf), 2)
    state.best.update({"AP": 0.25})
    state.scaler.update(2.0**7)
    state.step, state.seconds = 1, 12.5
    torch.rand(1)
    return state


def test_every_part_of_the_state_is_restored():
    saved = trained_state().state_dict()
    fresh = state_of(config_of())
    unchanged = {name for name, value in fresh.state_dict().items() if is_same_state(value, saved[name])}
    assert unchanged == {"arithmetic", "images"}  # these describe the machine, the config and the dataset

    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    fresh.load(Checkpoint(config_of(), (), (), 1, torch.load(file, weights_only=True)), Path("step_1.pt"))
    restored = fresh.state_dict()
    assert {name for name, value in restored.items() if not is_same_state(value, saved[name])} == set()
    assert (fresh.step, fresh.seconds, fresh.scaler.get_scale(), fresh.best.value) == (1, 12.5, 2.0**7, 0.25)


def test_average_is_evaluated_if_there_is_one():
    averaging, plain = state_of(config_of()), state_of(config_of(ema_decay=None))
    assert averaging.ema and averaging.evaluated is averaging.ema.model
    assert plain.evaluated is plain.model


def test_run_with_an_average_evaluates_it(tiny_overrides, tmp_path, monkeypatch):
    """The evaluated weights are those that `eval` and `predict` load, not those of the last step."""
    inference_model, weights = loop.inference_model, {}

    def recording(model, **settings):
        weights.update({name: value.clone() for name, value in model.state_dict().items()})
        return inference_model(model, **settings)

    monkeypatch.setattr(loop, "inference_model", recording)
    cfg = load_config("quickstart", [*tiny_overrides, "train.ema_decay=0.9", "train.steps=2"])
    checkpoint = read_checkpoint(loop.train(cfg, tmp_path / "run").folder / "checkpoints/last.pt")
    average, last = checkpoint.weights(), checkpoint.weights(average=False)
    assert is_same_state(weights, dict(average))
    assert not is_same_state(weights, dict(last))
