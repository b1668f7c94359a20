"""The command `predict`: exit codes, messages, and processes that are killed or interrupted."""

import json
import random
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress

import pytest

from retinanet.cli.predict import main
from retinanet.prediction.run import PredictionInterrupted
from tests.helpers.predictions import contents, save_overdetecting_checkpoint, write_noise_images
from tests.helpers.processes import RETINANET, Program
from tests.helpers.videos import cut, needs_pyav, noise_frames, write_video

pytestmark = pytest.mark.usefixtures("restore_process_settings")
TIMEOUT = 60.0  # seconds


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_overdetecting_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_noise_images(tmp_path_factory.mktemp("images"), [f"{number:02}.png" for number in range(16)])


@pytest.fixture(scope="module")
def arguments(checkpoint, images):
    """A command without its output folder."""
    return [str(checkpoint), str(images), "--min-score", "0.53", "--batch-size", "2", "--crops", "--yolo", "--output"]


@pytest.fixture(scope="module")
def undisturbed(arguments, tmp_path_factory):
    """The files of an uninterrupted prediction."""
    output = tmp_path_factory.mktemp("undisturbed")
    assert main([*arguments, str(output)]) == 0
    return contents(output)


def test_the_threshold_and_the_number_of_objects_are_printed(arguments, undisturbed, tmp_path, capsys):
    assert main([*arguments, str(tmp_path / "out")]) == 0
    number = len(json.loads(undisturbed["detections.json"])["annotations"])
    assert f"{number} objects with a score of at least 0.53 in 16 images: {tmp_path / 'out'}" in capsys.readouterr().out
    assert main([*arguments, str(tmp_path / "out")]) == 0
    assert "continuing: the results of 16 of 16 images exist" in capsys.readouterr().out


def test_damaged_images_are_named_and_give_exit_code_1(checkpoint, tmp_path, capsys):
    folder = write_noise_images(tmp_path / "in", ["a.png", "b.png"])
    for number in range(60):
        (folder / f"bad{number:02}.png").write_bytes(b"hello")
    assert main([str(checkpoint), str(folder), "--output", str(tmp_path / "out"), "--no-draw"]) == 1
    printed = capsys.readouterr()
    assert "in 2 images" in printed.out
    lines = printed.err.splitlines()
    assert lines[0] == "60 images could not be read:"
    assert lines[1].startswith(f"  {folder / 'bad00.png'}: not an image")
    assert lines[51] == "  and 10 more, see info.failed in detections.json"
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())["info"]["failed"]) == 60


def test_options_reach_the_prediction(checkpoint, tmp_path):
    write_noise_images(tmp_path / "in", ["a.png", "sub/b.png", "sub/c.png"])
    options = ["--recursive", "--jpeg", "--no-labels", "--limit", "2", "--min-score", "0.53"]
    assert (
        main([str(checkpoint), str(tmp_path / "in" / "**" / "*.png"), "--output", str(tmp_path / "o"), *options]) == 0
    )
    tables = {"detections.json", "detections.csv", "counts.csv"}
    assert set(contents(tmp_path / "o")) == {"a.jpg", "sub/b.jpg", *tables}


def test_a_missing_image_is_reported_before_torch_is_imported(checkpoint, tmp_path):
    code = (
        "import sys; from retinanet.cli.predict import main; "
        "code = main(sys.argv[1:]); sys.exit(99 if 'torch' in sys.modules else code)"
    )
    arguments = [str(checkpoint), "gone.png", "--output", "out"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert (done.returncode, done.stderr) == (2, "error: gone.png: no such file or folder\n")
    assert list(tmp_path.iterdir()) == []


@needs_pyav
def test_a_truncated_video_is_named_and_gives_exit_code_1(checkpoint, tmp_path, capsys):
    file = write_video(tmp_path / "a.mp4", noise_frames(24), codec="mpeg4", options={"movflags": "faststart"})
    cut(file, 0.5)
    arguments = ["--output", str(tmp_path / "out"), "--no-draw", "--frames-per-second", "12.5"]
    assert main([str(checkpoint), str(file), *arguments]) == 1
    printed = capsys.readouterr()
    frames = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]
    assert [frame["frame_id"] for frame in frames] == list(range(0, 2 * len(frames), 2)) and frames
    assert f"in {len(frames)} frames of 1 video: " in printed.out
    assert printed.err.startswith("1 image or video could not be read completely:\n")
    assert f"{file}: damaged or truncated after " in printed.err


def wait_for_images(program, output, count):
    """Wait until a program has drawn some images."""
    deadline = time.monotonic() + TIMEOUT
    while len(list(output.glob("*.png"))) < count:
        assert time.monotonic() < deadline and program.poll() is None, program.errors()
        time.sleep(0.005)


# A thread of the program itself sends the signals: on a busy machine, another process may see the images too late.
INTERRUPTED = """
    import os, sys, threading, time
    from pathlib import Path

    def interrupt():
        while len(list(Path(sys.argv[-1]).glob("*.png"))) < 3:
            time.sleep(0.001)
        for number in SIGNALS:
            os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
"""


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGINT], 130),
        ([signal.SIGTERM] * 2, 143),  # a scheduler may send it to the process and to its group
    ],
)
def test_a_stop_signal_keeps_the_results_and_says_how_to_continue(arguments, undisturbed, tmp_path, signals, code):
    output = tmp_path / "out"
    interrupt = f"SIGNALS = {list(map(int, signals))}\n" + textwrap.dedent(INTERRUPTED)
    program = Program(interrupt + RETINANET, ["predict", *arguments, str(output)])
    assert program.wait(TIMEOUT) == code, program.errors()
    message = program.errors().splitlines()[-1]
    assert message.startswith("interrupted after ")
    assert message.endswith(" of 16 images; to continue, run the same command again")
    images = json.loads((output / "detections.json").read_text())["images"]
    assert message.split()[2] == str(len(images))
    assert main([*arguments, str(output)]) == 0
    assert contents(output) == undisturbed


def test_an_interrupted_overwrite_is_continued_without_overwriting_again(arguments, tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise PredictionInterrupted(5, 16)

    monkeypatch.setattr("retinanet.prediction.predict.run_plan", interrupted)
    for option, expected in (([], "again"), (["--overwrite"], "again without --overwrite")):
        assert main([*arguments, str(tmp_path / "out"), *option]) == 130
        message = f"interrupted after 5 of 16 images; to continue, run the same command {expected}\n"
        assert capsys.readouterr().err == message


@pytest.mark.slow
def test_ten_kills_lose_and_repeat_nothing(arguments, undisturbed, tmp_path):
    output, moments = tmp_path / "out", random.Random(0)
    for _ in range(10):
        program = Program(RETINANET, ["predict", *arguments, str(output)])
        before = len(list(output.glob("*.png")))
        if before < 16:
            wait_for_images(program, output, before + 1)
        time.sleep(moments.uniform(0, 0.1))
        program.kill()
        program.wait(TIMEOUT)
    assert main([*arguments, str(output)]) == 0
    assert contents(output) == undisturbed
    recorded = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    names = [entry["image"]["name"] for entry in recorded if "image" in entry]
    assert sorted(names) == [f"{number:02}.png" for number in range(16)]


@pytest.mark.slow
@needs_pyav
def test_kills_and_sigterm_during_a_video_lose_and_repeat_nothing(checkpoint, tmp_path):
    """Kill the process in each phase: while it detects, after frames were recorded, and while it draws."""
    file = write_video(tmp_path / "a.mp4", noise_frames(16, height=60, width=80))
    arguments = [str(checkpoint), str(file), "--min-score", "0.53", "--batch-size", "2", "--crops", "--output"]
    undisturbed, output, moments = tmp_path / "undisturbed", tmp_path / "out", random.Random(0)
    assert main([*arguments, str(undisturbed)]) == 0
    journal = output / "predictions.jsonl"
    for attempt in range(6):
        program = Program(RETINANET, ["predict", *arguments, str(output)])
        deadline, before = time.monotonic() + TIMEOUT, journal.stat().st_size if journal.exists() else 0
        while program.poll() is None and not (journal.exists() and journal.stat().st_size > before):
            assert time.monotonic() < deadline, program.errors()
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.2))
        if attempt % 2:
            with suppress(ProcessLookupError):  # it may have finished
                program.send_signal(signal.SIGTERM)
            assert program.wait(TIMEOUT) in (0, 143)
            assert json.loads((output / "detections.json").read_text())["images"]
        else:
            program.kill()
            program.wait(TIMEOUT)
    assert main([*arguments, str(output)]) == 0
    assert contents(output) == contents(undisturbed)
    recorded = [json.loads(line) for line in journal.read_text().splitlines()]
    frames = [frame["frame"] for entry in recorded if "video" in entry for frame in entry["video"]["frames"]]
    assert frames == list(range(16))
