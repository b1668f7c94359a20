"""Publishing a checkpoint of a run: which recorded scores are those of its weights."""

import json

import pytest

from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.config.load import with_overrides
from retinanet.engine.evaluation_files import write_metrics
from retinanet.engine.publish import publish_checkpoint, recorded_scores
from retinanet.errors import InputError
from retinanet.interop.published_config import FILES
from tests.helpers.checkpoints import filled

EVALUATION = {"AP": 0.5, "file": "step_00000004.pt", "weights": None, "restricted_to": {}, "overrides": []}
LINES = [{"kind": "eval", "step": step, "AP": step / 100} for step in (2, 4)]


@pytest.fixture
def run(tmp_path):
    """A run folder with checkpoints of steps 2 and 4, and the scores of training at both."""
    folder = CheckpointFolder(tmp_path / "run" / "checkpoints", keep=5)
    for step in (2, 4):
        folder.save(filled(step))
    (tmp_path / "run" / "environment.json").write_text(json.dumps({"retinanet": "0.2.0", "folder": "/home/alice"}))
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return tmp_path / "run"


def recorded(run, name="last.pt", checkpoint=None):
    """AP and whether it is from the training run, or None."""
    scores = recorded_scores(run / "checkpoints" / name, checkpoint or filled(4 if name == "last.pt" else 2))
    return scores and (scores.metrics["AP"], scores.is_from_training)


def test_evaluation_of_the_checkpoint_counts(run):
    write_metrics(run, EVALUATION)
    assert recorded(run) == recorded(run, "step_00000004.pt", filled(4)) == (0.5, False)


def test_without_an_evaluation_the_scores_of_training_at_the_same_step_count(run):
    assert recorded(run) == (0.04, True)
    assert recorded(run, "step_00000002.pt") == (0.02, True)
    assert recorded(run, "last.pt", filled(3)) is None
    (run / "metrics.jsonl").unlink()
    assert recorded(run) is None


@pytest.mark.parametrize(
    "change",
    [
        {"file": "step_00000002.pt"},
        {"file": None},
        {"restricted_to": {"classes": ["cat"]}},
    ],
)
def test_evaluation_of_something_else_does_not_count(run, change):
    write_metrics(run, EVALUATION | change)
    assert recorded(run) == (0.04, True)


def test_evaluation_of_the_last_weights_counts_only_without_an_average(run):
    write_metrics(run, EVALUATION | {"weights": "last"})
    assert recorded(run) == (0.5, False)
    averaged = filled(4)
    averaged.state["ema"] = {"model": averaged.state["model"]}
    assert recorded(run, checkpoint=averaged) == (0.04, True)


def test_damaged_evaluation_is_an_input_error(run):
    (run / "evaluation.json").write_text("{")
    with pytest.raises(InputError, match=r"evaluation\.json: cannot be read: .*; write it again with `retinanet eval`"):
        recorded(run)


def test_published_folder_has_sizes_name_and_nothing_private(run, tmp_path):
    private = ["data.train=/home/alice/secret/train.json", "device=cuda:3", "train.init_from=/home/alice/a.pt"]
    checkpoint = filled(6)
    checkpoint = checkpoint._replace(config=with_overrides(checkpoint.config, private, source="test"))
    path = CheckpointFolder(run / "checkpoints", keep=5).save(checkpoint)
    evaluation = EVALUATION | {"file": path.name, "checkpoint": "/home/alice/run/checkpoints/best.pt"}
    evaluation |= {
        "annotations": ["/home/alice/secret/val.json"],
        "overrides": ["data.val=/home/alice/secret/val.json"],
    }
    write_metrics(run, evaluation)
    publication = publish_checkpoint(path, tmp_path / "alpha", license="mit")
    assert publication.sizes == {name: (tmp_path / "alpha" / name).stat().st_size for name in FILES}
    assert publication.checkpoint_size == path.stat().st_size
    assert publication.scores is not None and publication.scores.metrics == {"AP": 0.5}
    for name in FILES:
        content = (tmp_path / "alpha" / name).read_bytes()
        assert not any(private in content for private in (b"alice", b"secret", b"/home", b"cuda"))
    card = (tmp_path / "alpha" / "README.md").read_text()
    assert "\n# alpha\n" in card and "AP 0.500 on val.json" in card and "| retinanet | 0.2.0 |" in card
    publish_checkpoint(path, tmp_path / "beta", name="my-lab/cells")
    assert 'from_pretrained("my-lab/cells")' in (tmp_path / "beta" / "README.md").read_text()
