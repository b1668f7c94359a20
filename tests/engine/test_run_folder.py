import json
from dataclasses import replace
from pathlib import Path

import pytest

from retinanet.config.load import load_config
from retinanet.data.fingerprint import fingerprint
from retinanet.engine.run_files import CHECKPOINTS, LOCK_FILE, MARKER, UNREADABLE_FILE, check_folder, started_in
from retinanet.engine.run_folder import check_same_run, claim_folder, is_of_this_launch, open_folder
from retinanet.errors import InputError
from retinanet.runtime.lock import try_lock
from tests.helpers.checkpoints import checkpoint_of
from tests.helpers.datasets import dataset_of, image_record
from tests.helpers.processes import run_together

DATA = dataset_of([image_record(f"{number}.png", image_id=number) for number in (1, 2, 3)], class_names=("cat", "dog"))
PATH = Path("last.pt")


@pytest.fixture
def launched(monkeypatch):
    """Make this process look like a torchrun worker."""

    def start(run_id: str) -> str:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", run_id)
        monkeypatch.setattr("retinanet.runtime.distributed.os.getppid", lambda: 4321)
        return f"{run_id} 4321"

    return start


def test_run_belongs_to_the_launch_in_its_environment_record(tmp_path, launched):
    launch = launched("abc")
    assert not is_of_this_launch(tmp_path)  # contains no run
    (tmp_path / MARKER).write_text(json.dumps({"launch": launch}))
    assert is_of_this_launch(tmp_path)
    launched("another")
    assert not is_of_this_launch(tmp_path)


@pytest.mark.parametrize("content", ['{"launch": nu', "{}", '{"launch": null}'])
def test_run_without_a_valid_launch_id_is_not_of_this_launch(tmp_path, launched, content):
    launched("abc")
    (tmp_path / MARKER).write_text(content)
    assert not is_of_this_launch(tmp_path)


def test_no_run_belongs_to_this_launch_without_torchrun(tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    (tmp_path / MARKER).write_text('{"launch": null}')
    assert not is_of_this_launch(tmp_path)


def checkpoint_with(cfg):
    return checkpoint_of(images=fingerprint(DATA))._replace(config=cfg)


def test_classes_must_be_the_same(tmp_path):
    cfg = load_config("quickstart")
    assert check_same_run(PATH, checkpoint_with(cfg), cfg, DATA, folder=tmp_path) is None
    with pytest.raises(
        InputError, match=r"last\.pt: was trained on classes \['cat', 'dog'\], but data.train has \['dog'\]"
    ):
        check_same_run(PATH, checkpoint_with(cfg), cfg, replace(DATA, class_names=("dog",)), folder=tmp_path)


def test_images_may_be_removed_once_recorded_as_unreadable(tmp_path):
    cfg, fewer = load_config("quickstart"), DATA.subset([0, 2])
    with pytest.raises(InputError, match=r"last\.pt: was trained on 3 images, but data\.train has 2: 1 are missing"):
        check_same_run(PATH, checkpoint_with(cfg), cfg, fewer, folder=tmp_path)
    (tmp_path / UNREADABLE_FILE).write_text(json.dumps({"path": DATA.paths[1]}) + "\n")
    changed = check_same_run(PATH, checkpoint_with(cfg), cfg, fewer, folder=tmp_path)
    assert "lacks 1 of the 3 images it had, 1 of them recorded as unreadable" in changed


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("assignment.type=atss", r"different assignment\.anchors_per_level: it was None, now 9"),
        ("assignment.fg_iou=0.6", r"different assignment\.fg_iou: it was 0\.5, now 0\.6"),
        ("loss.classification.gamma=1.0", r"different loss\.classification\.gamma: it was 2\.0, now 1\.0"),
        ("train.seed=5", r"different train\.seed: it was 0, now 5"),
    ],
)
def test_resuming_with_a_changed_key_is_refused(tmp_path, override, message):
    checkpoint = checkpoint_with(load_config("quickstart"))
    check_same_run(
        PATH, checkpoint, load_config("quickstart", ["postprocess.min_score=0.5", "device=cpu"]), DATA, folder=tmp_path
    )
    with pytest.raises(InputError, match=message):
        check_same_run(PATH, checkpoint, load_config("quickstart", [override]), DATA, folder=tmp_path)


def test_error_for_a_changed_run_length_suggests_init_from(tmp_path):
    checkpoint = checkpoint_with(load_config("quickstart", ["train.steps=8"]))
    for length, now in (("train.steps=9", "train.steps=9"), ("train.epochs=2", "train.epochs=2.0")):
        with pytest.raises(InputError) as caught:
            check_same_run(PATH, checkpoint, load_config("quickstart", [length]), DATA, folder=tmp_path)
        assert str(caught.value) == (
            "last.pt: the length of a run is fixed, because its schedule depends on it: it was train.steps=8, "
            f"now {now}; to train longer, start a new run from these weights: train.init_from=last.pt --output "
            "OTHER_FOLDER"
        )


# ---- locking, and cleaning up after a failed start


@pytest.fixture
def cfg():
    return load_config("quickstart")


def fail(folder: Path, cfg=None, *, kind=InputError, leave=()):
    """Claim a folder, open it if there is a config, write some more files, and fail."""
    with pytest.raises(kind), claim_folder(folder):
        if cfg:
            open_folder(folder, cfg)
            (folder / "metrics.jsonl").touch()
            (folder / CHECKPOINTS).mkdir(exist_ok=True)
        for name in leave:
            (folder / name).write_text("kept")
        raise kind("wrong")


@pytest.mark.parametrize("kind", [InputError, MemoryError])
@pytest.mark.parametrize("opened", [False, True])
def test_failed_start_leaves_no_folder(tmp_path, cfg, opened, kind):
    fail(tmp_path / "runs" / "a", cfg if opened else None, kind=kind)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()
    fail(tmp_path / "runs" / "a", cfg if opened else None, kind=kind)
    assert list((tmp_path / "runs").iterdir()) == []


def test_failed_start_preserves_existing_files(tmp_path, cfg):
    (tmp_path / "notes.txt").write_text("mine")
    fail(tmp_path, cfg)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    fail(tmp_path / "new" / "run", cfg, leave=["mine.txt"])
    assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "result", ["nonfinite_step_00000001.pt", "unreadable.jsonl", "metrics.jsonl", f"{CHECKPOINTS}/step_00000001.pt"]
)
def test_failed_run_with_results_is_kept(tmp_path, cfg, result):
    fail(tmp_path / "run", cfg, leave=[result])
    assert {MARKER, "config.yaml", "log.txt"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert (tmp_path / "run" / result).read_text() == "kept"


def test_folder_is_kept_after_a_crash(tmp_path, cfg):
    fail(tmp_path / "run", cfg, kind=RuntimeError)
    assert (tmp_path / "run" / "log.txt").exists()


def test_refused_start_leaves_an_earlier_run_untouched(tmp_path, cfg):
    with claim_folder(tmp_path / "run"):
        open_folder(tmp_path / "run", cfg)
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with (
        pytest.raises(InputError, match="contains a run; it has not saved a checkpoint"),
        claim_folder(tmp_path / "run"),
    ):
        check_folder(tmp_path / "run", resume=False, overwrite=False)
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_folder_in_use_is_refused_and_left_alone(tmp_path, cfg):
    folder = tmp_path / "run"
    with claim_folder(folder):
        open_folder(folder, cfg)
        before = {path: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(InputError, match=r"run: another process is training here \(process \d+ on .*\); stop it"):
            with claim_folder(folder):
                pytest.fail("both train")
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
    with claim_folder(folder):
        pass


def test_run_without_a_checkpoint_requires_resume_auto(tmp_path):
    with pytest.raises(InputError, match="start a run without --resume"):
        check_folder(tmp_path / "new", resume=True, overwrite=False)
    check_folder(tmp_path / "new", resume="auto", overwrite=False)
    (tmp_path / MARKER).write_text("{}")
    with pytest.raises(InputError, match="start it again with --overwrite"):
        check_folder(tmp_path, resume=True, overwrite=False)
    check_folder(tmp_path, resume="auto", overwrite=False)
    (tmp_path / CHECKPOINTS).mkdir()
    (tmp_path / CHECKPOINTS / "step_00000001.pt").touch()
    check_folder(tmp_path, resume=True, overwrite=False)


CLAIM = """
    import sys
    from pathlib import Path
    import torch
    from retinanet.engine.run_folder import claim_folder
    from retinanet.errors import InputError
    from retinanet.runtime.distributed import process_group
    folder = Path(sys.argv[1])
    with process_group(torch.device("cpu"), timeout=60):
        try:
            with claim_folder(folder):
                print("claimed")
        except InputError as error:
            print(error)
"""


@pytest.mark.slow
def test_processes_of_one_launch_claim_a_folder_together(tmp_path):
    """Only the main process locks the folder; if that fails, all processes raise the error."""
    assert run_together(2, CLAIM, [str(tmp_path / "run")]) == ["claimed\n", "claimed\n"]
    with try_lock(tmp_path / "run" / LOCK_FILE):
        printed = run_together(2, CLAIM, [str(tmp_path / "run")])
    assert all("run: another process is training here" in text for text in printed)


def test_run_records_the_folder_in_which_it_was_started(tmp_path, cfg, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert started_in(tmp_path) is None
    with claim_folder(tmp_path / "run"):
        open_folder(tmp_path / "run", cfg)
    assert started_in(tmp_path / "run") == tmp_path
    (tmp_path / MARKER).write_text("[]")
    assert started_in(tmp_path) is None
