"""Which run the arguments of `retinanet train` start or resume; nothing is trained here."""

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
    """A working directory with a run in runs/cells that has a checkpoint, and one in runs/begun that has none."""
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
    """Replaces training by a list of the runs that it was asked for: folder, seed, and resume."""
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
        # Resuming needs no config, and takes that of the run.
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
        # A config inside a run folder means that run.
        ("runs/cells/config.yaml --resume", ("runs/cells", 7, True)),
        ("runs/cells/config.yaml --overwrite", ("runs/cells", 7, False)),
        ("runs/cells/config.yaml --output runs/again", ("runs/again", 7, False)),
        # Start or resume.
        ("mine.yaml --resume=auto", ("runs/mine", 0, "auto")),
        ("mine.yaml --resume auto --output runs/cells", ("runs/cells", 0, "auto")),
        ("runs/begun/config.yaml --resume=auto", ("runs/begun", 7, "auto")),
    ],
)
def test_run_that_the_arguments_name(place, started, line, run):
    assert main([*line.split(), "device=cpu"]) == 0
    assert started == [run]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "no config; pass a YAML file or the name of a bundled config, such as quickstart"),
        ("train.seed=3", "no config; pass"),
        ("--resume", "--resume: no run; pass a run folder, such as --resume runs/quickstart"),
        ("--resume=auto", "no config; pass"),  # may have to start a run
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
        ("mine.yaml --dry-run --resume", "--dry-run keeps nothing: remove --resume"),
    ],
)  # fmt: skip
def test_arguments_that_name_no_run_or_two(place, started, capsys, line, message):
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    assert main(line.split()) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {message}") and printed.err.count("\n") == 1
    assert started == [] and printed.out == ""
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before


def test_folder_that_other_processes_of_torchrun_have_opened_is_not_refused(place, started, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert main(["mine.yaml", "--output", "runs/cells"]) == 0  # `train` checks it on the main process
    assert started == [("runs/cells", 0, False)]


def test_printed_config_of_a_run_is_that_of_the_run(place, started, capsys):
    assert main(["--resume", "runs/cells", "--print-config", "train.grace=3"]) == 0
    assert capsys.readouterr().out == config_to_yaml(load_config("runs/cells/config.yaml", "train.grace=3"))
    assert started == []


def test_missing_data_is_reported_with_the_folder_of_the_run(place, tmp_path, started, capsys):
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


def test_what_to_start_leaves_a_missing_config_to_the_loader(place):
    start = what_to_start("gone.yaml", None, None)
    assert (start.config, start.folder, start.resume) == ("gone.yaml", Path("runs/gone"), False)
    with pytest.raises(InputError, match="neither a file nor a bundled config"):
        load_config(start.config)


def test_help_names_the_options_to_resume():
    text = " ".join(parser().format_help().split())
    assert "--resume [RUN]" in text and "--resume=auto" in text and "--set KEY=VALUE" in text
