"""Finding the checkpoint named on the command line, and its early checks."""

import json

import pytest

from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.checkpoint.link import PREFIX
from retinanet.cli.checkpoint import check_early, default_output, named_checkpoint
from retinanet.config.load import load_config
from retinanet.engine.run_files import CHECKPOINTS, MARKER, with_paths_of_run
from retinanet.errors import InputError
from tests.helpers.checkpoints import filled
from tests.helpers.published import published


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder with checkpoints of steps 2 and 4; step 2 is the best."""
    monkeypatch.chdir(tmp_path)
    cfg = load_config("quickstart", ["data.val={images: val, annotations: val.json}"])
    folder = CheckpointFolder(tmp_path / "run" / CHECKPOINTS, keep=5)
    for step in (2, 4):
        folder.save(filled(step)._replace(config=cfg))
    folder.mark_best(2)
    (tmp_path / "run" / MARKER).write_text(json.dumps({"folder": str(tmp_path / "project")}))
    (tmp_path / "project" / "val").mkdir(parents=True)
    (tmp_path / "project" / "val.json").touch()
    return tmp_path / "run"


def test_run_folder_resolves_to_its_best_or_otherwise_its_last_checkpoint(run, capsys):
    best = run / CHECKPOINTS / "best.pt"
    for path in (run, run / CHECKPOINTS):
        assert named_checkpoint(path) == best
        assert capsys.readouterr().out == f"checkpoint: {best} (step_00000002.pt)\n"
    best.unlink()
    last = run / CHECKPOINTS / "last.pt"
    assert named_checkpoint(run) == last
    assert capsys.readouterr().out == f"checkpoint: {last} (step_00000004.pt)\n"
    last.unlink()
    assert named_checkpoint(run) == run / CHECKPOINTS / "step_00000004.pt"


def test_link_to_a_removed_checkpoint_is_not_chosen(run):
    (run / CHECKPOINTS / "step_00000002.pt").unlink()
    assert named_checkpoint(run) == run / CHECKPOINTS / "last.pt"


def test_path_of_a_checkpoint_is_returned_without_output(run, capsys):
    path = run / CHECKPOINTS / "step_00000004.pt"
    assert named_checkpoint(path) == path and capsys.readouterr().out == ""


def test_only_the_main_process_prints(run, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    named_checkpoint(run)
    assert capsys.readouterr().out == ""


def test_folder_without_a_checkpoint_and_missing_path_are_refused(run, tmp_path):
    with pytest.raises(InputError, match="gone: no such checkpoint; pass a run folder, or a file such as"):
        named_checkpoint(tmp_path / "gone")
    with pytest.raises(InputError, match="project: not a run folder"):
        named_checkpoint(tmp_path / "project")
    for path in (run / CHECKPOINTS).iterdir():
        path.unlink()
    with pytest.raises(InputError, match="run: contains no checkpoint; pass another run folder"):
        named_checkpoint(run)


def test_invalid_override_is_rejected_early(run):
    with pytest.raises(
        InputError, match=r"best\.pt with overrides: 1 problem\(s\) in the config\n  data\.vall: unknown"
    ):
        check_early(run / CHECKPOINTS / "best.pt", ["data.vall=[]"])


def test_data_is_looked_up_in_the_folder_where_the_run_was_started(run, tmp_path):
    checkpoint = run / CHECKPOINTS / "best.pt"
    check_early(checkpoint, [])
    cfg = load_config("quickstart", ["data.val={images: val, annotations: val.json}"])
    (source,) = with_paths_of_run(cfg, run).data.val
    project = tmp_path / "project"
    assert (source.images, source.annotations) == (str(project / "val"), str(project / "val.json"))
    (run / MARKER).write_text("{}")
    assert with_paths_of_run(cfg, run) == cfg


def test_data_in_the_current_folder_takes_precedence(run, tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val.json").touch()
    cfg = load_config("quickstart", ["data.val={images: val, annotations: val.json}"])
    assert with_paths_of_run(cfg, run) == cfg


def test_absolute_path_of_a_source_is_unchanged(run, tmp_path):
    cfg = load_config("quickstart", [f"data.val={{images: {tmp_path}/gone, annotations: val.json}}"])
    (source,) = with_paths_of_run(cfg, run).data.val
    assert (source.images, source.annotations) == (f"{tmp_path}/gone", str(tmp_path / "project" / "val.json"))


def test_error_for_a_relative_path_names_the_folder_it_is_relative_to(run, tmp_path, monkeypatch):
    checkpoint = run / CHECKPOINTS / "best.pt"
    (tmp_path / "val").mkdir()  # exists in both folders, so the source is not redirected
    with pytest.raises(InputError) as caught:
        check_early(checkpoint, [])
    assert str(caught.value) == (
        "val.json: cannot be read: No such file or directory (the path is relative to the current folder, "
        f"{tmp_path}). It exists in {tmp_path / 'project'}, where the run was started: run this command there, or set "
        "data.val.annotations to an annotation file or folder"
    )
    check_early(checkpoint, [], has_data=False)
    monkeypatch.chdir(tmp_path / "project")
    check_early(checkpoint, [])


def test_unreadable_checkpoint_is_left_to_the_loader(tmp_path):
    (tmp_path / "weights.pt").write_text("not a checkpoint")
    check_early(tmp_path / "weights.pt", ["no.such.key=1"])


def test_links_may_be_text_files(run, capsys):
    """Text files replace links on file systems without symbolic links."""
    best, last = (run / CHECKPOINTS / name for name in ("best.pt", "last.pt"))
    for link, target in ((best, "step_00000002.pt"), (last, "step_00000004.pt")):
        link.unlink()
        link.write_bytes(PREFIX + target.encode() + b"\n")
    assert named_checkpoint(run) == best
    assert capsys.readouterr().out == f"checkpoint: {best} (step_00000002.pt)\n"
    with pytest.raises(InputError, match=r"data\.vall: unknown key"):
        check_early(best, ["data.vall=[]"])
    (run / CHECKPOINTS / "step_00000002.pt").unlink()
    assert named_checkpoint(run) == last


def test_published_folder_is_its_own_checkpoint(run, tmp_path, capsys):
    folder = published(tmp_path / "out", filled(2))
    assert named_checkpoint(folder) == folder and capsys.readouterr().out == ""
    assert (default_output(folder), default_output(run / CHECKPOINTS / "best.pt")) == (None, run)
    check_early(folder, [], has_data=False)
    with pytest.raises(InputError, match=r"out with overrides: 1 problem\(s\) in the config\n  data\.vall: unknown"):
        check_early(folder, ["data.vall=[]"], has_data=False)


def test_published_folder_needs_the_path_of_the_data(run, tmp_path):
    folder = published(tmp_path / "out", filled(2))
    with pytest.raises(InputError, match=r"out: a published folder does not say where data is; add data\.val=PATH"):
        check_early(folder, [])
    with pytest.raises(InputError, match=r"gone\.json: cannot be read: No such file"):
        check_early(folder, ["data.val=gone.json"])
    check_early(folder, [f"data.val={tmp_path / 'project' / 'val.json'}"])


def test_damaged_published_folder_is_reported_early(tmp_path):
    folder = published(tmp_path / "out", filled(2))
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: damaged: not valid JSON"):
        check_early(folder, [])
