"""The run that the arguments of `retinanet train` start or resume; nothing is trained here."""

from pathlib import Path

import pytest

import retinanet.cli.train
import retinanet.engine.train
from retinanet.cli.train import main, parser, what_to_start
from retinanet.config.load import config_to_yaml, load_config
from retinanet.engine.result import TrainResult
from retinanet.engine.run_files import CHECKPOINTS, MARKER
from retinanet.errors import InputError

NO_DATA = ["data.train=[]", "data.val=[]"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with two runs: runs/cells has a checkpoint, runs/begun has none."""
    monkeypatch.chdir(tmp_path)
    for name, files in (("cells", ["step_00000004.pt"]), ("begun", [])):
        folder = tmp_path / "runs" / name
        (folder / CHECKPOINTS).mkdir(parents=True)
        (folder / MARKER).write_text("{}")
        (folder / "config.yaml").write_text(config_to_yaml(load_config("quickstart", [*NO_DATA, "train.seed=7"])))
        for file in files:
            (folder / CHECKPOINTS / file).touch()
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "mine.yaml").write_text("base: quickstart\ndata: {train: [], val: []}\n")
    return tmp_path


@pytest.fixture
def started(monkeypatch):
    """Replace training with a stub that records each run: folder, seed, and resume."""
    calls = []

    def fake_train(cfg, folder, *, resume, overwrite, profile):
        calls.append((str(folder), cfg.train.seed, resume))
        return TrainResult(Path(folder), 1, {}, 0.0, "AP", None, False, 1.0)

    monkeypatch.setattr(retinanet.engine.train, "train", fake_train)
    monkeypatch.setattr(retinanet.cli.train, "check_images_of", lambda cfg, *, decode: None)  # there are no images
    return calls


@pytest.mark.parametrize(
    ("line", "run"),
    [
        ("mine.yaml", ("runs/mine", 0, False)),
        ("mine.yaml --output here train.seed=3", ("here", 3, False)),
        ("mine.yaml --output runs/cells --overwrite", ("runs/cells", 0, False)),
        # Resuming needs no config: it uses the one of the run.
        ("--resume runs/cells", ("runs/cells", 7, True)),
        ("--resume runs/cells/", ("runs/cells", 7, True)),
        ("--resume=runs/cells/config.yaml", ("runs/cells", 7, True)),
        ("--resume runs/cells train.seed=3", ("runs/cells", 3, True)),
        ("train.seed=3 --resume runs/cells --output runs/cells", ("runs/cells", 3, True)),
        ("--resume --output runs/cells", ("runs/cells", 7, True)),
        ("mine.yaml --resume runs/cells", ("runs/cells", 0, True)),
        ("mine.yaml --output runs/cells --resume", ("runs/cells", 0, True)),
        # --resume may come before the config and the overrides.
        ("--resume mine.yaml --output runs/cells", ("runs/cells", 0, True)),
        ("mine.yaml --output runs/cells --resume train.seed=3", ("runs/cells", 3, True)),
        # A config inside a run folder refers to that run.
        ("runs/cells/config.yaml --resume", ("runs/cells", 7, True)),
        ("runs/cells/config.yaml --overwrite", ("runs/cells", 7, False)),
        ("runs/cells/config.yaml --output runs/again", ("runs/again", 7, False)),
        # Start or resume.
        ("mine.yaml --resume=auto", ("runs/mine", 0, "auto")),
        ("mine.yaml --resume auto --output runs/cells", ("runs/cells", 0, "auto")),
        ("runs/begun/config.yaml --resume=auto", ("runs/begun", 7, "auto")),
    ],
)
def test_run_is_determined_by_the_arguments(place, started, line, run):
    assert main([*line.split(), "device=cpu"]) == 0
    assert started == [run]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "no config; pass a YAML file or the name of a bundled config, such as quickstart"),
        ("train.seed=3", "no config; pass"),
        ("--resume", "--resume: no run; pass a run folder, such as --resume runs/quickstart"),
        ("--resume=auto", "no config; pass"),  # it may start a new run, which needs a config
        ("mine.yaml --resume", "runs/mine: there is no checkpoint to resume from; start a run without --resume, or use "
                               "--resume=auto, which starts a run if there is none"),
        ("--resume runs/begun", "runs/begun: there is no checkpoint to resume from; start it again with --overwrite"),
        ("--resume runs/cell", "runs/cell: no such run folder; did you mean runs/cells?"),
        ("--resume nowhere/run", "nowhere/run: no such run folder; pass a folder written by `retinanet train`"),
        ("--resume runs/other", "runs/other: not a run folder: there is no environment.json"),
        ("--resume runs/cells/checkpoints/step_00000004.pt",
         "runs/cells/checkpoints/step_00000004.pt: is a checkpoint, expected a run folder; pass runs/cells"),
        ("--resume runs/cells --output runs/mine",
         "the run to resume is in runs/cells, but --output is runs/mine; remove --output"),
        ("runs/cells/config.yaml --resume --output runs/mine", "the run to resume is in runs/cells, but --output is"),
        ("runs/cells", "runs/cells: is a run folder, expected a config; continue the run with --resume runs/cells"),
        ("runs/cells/config.yaml", "runs/cells: contains a run; continue it with --resume runs/cells, replace it with "
                                   "--overwrite, or choose another folder"),
        ("mine.yaml --output runs/cells", "runs/cells: contains a run; continue it with --resume runs/cells"),
        ("mine.yaml --output runs/begun", "runs/begun: contains a run; it has not saved a checkpoint, replace it"),
        ("--resume quikstart", "quikstart: no such run folder"),
        ("mine.yaml --dry-run --resume", "--dry-run saves nothing: remove --resume"),
    ],
)  # fmt: skip
def test_missing_or_contradictory_runs_are_errors(place, started, capsys, line, message):
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    assert main(line.split()) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {message}") and printed.err.count("\n") == 1
    assert started == [] and printed.out == ""
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before


def test_folder_opened_by_another_torchrun_process_is_accepted(place, started, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert main(["mine.yaml", "--output", "runs/cells"]) == 0  # `train` checks the folder in the main process
    assert started == [("runs/cells", 0, False)]


def test_print_config_with_resume_prints_the_config_of_the_run(place, started, capsys):
    assert main(["--resume", "runs/cells", "--print-config", "train.grace=3"]) == 0
    assert capsys.readouterr().out == config_to_yaml(load_config("runs/cells/config.yaml", "train.grace=3"))
    assert started == []


def test_error_for_missing_data_names_the_folder_where_the_run_was_started(place, tmp_path, started, capsys):
    (tmp_path / "project").mkdir()
    for name in ("a.json", "b.json"):
        (tmp_path / "project" / name).touch()
    (place / "runs/cells" / MARKER).write_text(f'{{"folder": "{tmp_path / "project"}"}}')
    arguments = ["data.train={images: ., annotations: a.json}", "data.val={images: ., annotations: b.json}"]
    assert main(["--resume", "runs/cells", *arguments]) == 2
    assert (
        f"(the path is relative to the current folder, {tmp_path}). It exists in {tmp_path / 'project'}, where the "
        in (capsys.readouterr().err)
    )


def test_missing_config_is_reported_by_the_loader(place):
    start = what_to_start("gone.yaml", None, None)
    assert (start.config, start.folder, start.resume) == ("gone.yaml", Path("runs/gone"), False)
    with pytest.raises(InputError, match="neither a file nor a bundled config"):
        load_config(start.config)


def test_help_names_the_options_to_resume():
    text = " ".join(parser().format_help().split())
    assert "--resume [RUN]" in text and "--resume=auto" in text and "--set KEY=VALUE" in text
