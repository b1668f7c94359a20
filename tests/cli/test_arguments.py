"""Overrides and options in any order, and the error line for an invalid argument."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinanet.cli import ablate, benchmark, predict, train
from retinanet.cli import eval as eval_command
from retinanet.cli.arguments import is_override

PARSERS = {
    "train": train.parser(),
    "eval": eval_command.parser(),
    "predict": predict.parser(),
    "ablate": ablate.table_parser(),
    "ablate figures": ablate.figures_parser(),
}


def parsed(command: str, line: str):
    return PARSERS[command].parse(line.split())


def refused(capsys, command: str, line: str) -> str:
    """Return the line on stderr for invalid arguments."""
    parser = PARSERS[command] if command in PARSERS else benchmark.parser()
    with pytest.raises(SystemExit) as stop:
        parser.parse(line.split())
    printed = capsys.readouterr()
    assert stop.value.code == 2 and printed.out == ""
    assert printed.err.startswith(f"{parser.prog}: ") and printed.err.count("\n") == 1
    return printed.err.removeprefix(f"{parser.prog}: ").rstrip("\n")


# ---- overrides


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("train", "{0} quickstart --output runs/a {1} {2}"),
        ("eval", "a.pt {0} --output b {1} {2}"),
        ("predict", "a.pt {0} b.png --output c {1} d.png {2}"),
        ("ablate", "{0} 1b --seeds 2 {1} --rows one two {2}"),
        ("ablate figures", "a.pt {0} {1} --output b {2}"),
    ],
)
def test_every_command_accepts_overrides_anywhere_and_in_order(command, line):
    plain = parsed(command, line.format("train.seed=1", "device=cpu", "train.seed=2"))
    assert plain.overrides == ["train.seed=1", "device=cpu", "train.seed=2"]
    for others in [
        line.format("--set train.seed=1", "--set device=cpu", "--set train.seed=2"),
        line.format("train.seed=1", "--set=device=cpu", "train.seed=2"),
        line.format("--set train.seed=1", "device=cpu", "train.seed=2"),
    ]:
        assert parsed(command, others) == plain


@given(st.lists(st.tuples(st.sampled_from(["device=a", "train.seed=1", "data.classes=[a, b=c]"]), st.integers(0, 2))))
def test_overrides_keep_their_order_however_they_are_written(items):
    argv = ["quickstart"]
    for override, form in items:
        argv += [[override], ["--set", override], [f"--set={override}"]][form]
    arguments = PARSERS["train"].parse(argv)
    assert arguments.overrides == [override for override, _ in items]
    assert arguments.config == "quickstart"


def test_value_of_an_option_is_not_an_override():
    arguments = parsed("train", "quickstart --output a=b --overwrite device=cpu")
    assert (str(arguments.output), arguments.overrides) == ("a=b", ["device=cpu"])
    arguments = parsed("eval", "a.pt --output=c=d")
    assert (str(arguments.output), arguments.overrides) == ("c=d", [])


def test_paths_are_not_overrides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.png").touch()
    assert not is_override("a=b.png")  # exists
    assert not is_override("photos/a=c.png") and not is_override("photos\\a=c.png") and not is_override("a.png")
    assert is_override("a=c.png") and is_override("data.val.images=photos/a=c")
    arguments = parsed("predict", "c.pt a=b.png device=cpu --output d")
    assert ([str(path) for path in arguments.images], arguments.overrides) == (["a=b.png"], ["device=cpu"])


def test_tilde_and_variables_in_the_output_folder_are_expanded(monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("RUNS", "/runs")
    for command, line in (("train", "quickstart"), ("eval", "a.pt"), ("predict", "a.pt b.png"), ("ablate", "1b")):
        assert str(PARSERS[command].parse([*line.split(), "--output=~/x #1"]).output) == "/home/me/x #1"
        assert str(PARSERS[command].parse([*line.split(), "--output", "${RUNS}/x"]).output) == "/runs/x"
    monkeypatch.delenv("RUNS")
    assert refused(capsys, "train", "quickstart --output $RUNS/x").startswith(
        "argument --output: folder: the environment variable RUNS in '$RUNS/x' is not set; set it"
    )


def test_arguments_after_two_dashes_are_not_separated():
    arguments = PARSERS["predict"].parse(["--output", "d", "c.pt", "--", "-a.png", "b=c.png"])
    assert [str(path) for path in arguments.images] == ["-a.png", "b=c.png"]


def test_argument_that_is_neither_option_nor_override_is_kept_as_an_invalid_override():
    assert parsed("train", "quickstart batch_size").overrides == ["batch_size"]  # parse_override explains it


# ---- errors


@pytest.mark.parametrize(
    ("command", "line", "message"),
    [
        ("train", "--epochs 3", "no option --epochs; did you mean train.epochs=3?"),
        ("train", "quickstart --epochs=3", "no option --epochs; did you mean train.epochs=3?"),
        ("train", "quickstart --epochs", "no option --epochs; did you mean train.epochs=...?"),
        ("train", "quickstart --lr 1e-3", "no option --lr; did you mean train.optimizer.lr=1e-3?"),
        ("train", "quickstart --batch-size 4", "no option --batch-size; did you mean train.batch_size=4?"),
        ("train", "quickstart --train.seed 4", "no option --train.seed; did you mean train.seed=4?"),
        ("train", "quickstart --gamma 2",
         "no option --gamma; did you mean loss.classification.gamma=2 or train.schedule.gamma=2?"),
        ("train", "quickstart -device cpu", "no option -device; did you mean device=cpu?"),
        ("train", "quickstart --classes [a;b]", "no option --classes; did you mean 'data.classes=[a;b]'?"),
        ("train", "quickstart --outptu runs/a", "no option --outptu; did you mean --output?"),
        ("train", "quickstart --print_config", "no option --print_config; did you mean --print-config?"),
        ("train", "quickstart --res", "no option --res; did you mean --resume?"),  # no abbreviations
        ("train", "quickstart --qqqq 3", "no option --qqqq; see retinanet train --help"),
        ("train", "quickstart --set", "argument --set: expected one argument; see retinanet train --help"),
        ("eval", "a.pt --min-score 0.6", "no option --min-score; did you mean postprocess.min_score=0.6?"),
        ("predict", "a.pt b.png --output c --batch_size 3", "no option --batch_size; did you mean --batch-size?"),
        ("benchmark", "loss --epochs 3", "no option --epochs; see retinanet benchmark --help"),  # takes no config
    ],
)  # fmt: skip
def test_unknown_option_suggests_what_was_meant(capsys, command, line, message):
    assert refused(capsys, command, line) == message


@pytest.mark.parametrize(
    ("command", "line", "missing"),
    [
        ("eval", "", "checkpoint"),
        ("ablate", "", "table"),
        ("ablate figures", "device=cpu", "checkpoint"),
        ("predict", "a.pt b.png", "--output"),
        ("predict", "--output a", "checkpoint, images"),
    ],
)
def test_only_required_arguments_are_reported_as_missing(capsys, command, line, missing):
    message = refused(capsys, command, line)
    required = message.removeprefix("the following arguments are required: ").partition("; see retinanet")[0]
    assert sorted(required.split(", ")) == sorted(missing.split(", "))


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "two"])
def test_frames_per_second_must_be_positive(capsys, value):
    line = refused(capsys, "predict", f"run a.mp4 --output b --frames-per-second={value}")
    assert f"found '{value}', expected a number above 0" in line
    assert parsed("predict", "run a.mp4 --output b --frames-per-second 0.5").frames_per_second == 0.5
