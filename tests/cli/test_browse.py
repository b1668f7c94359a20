"""The command `retinanet browse` on datasets, detections and runs."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from retinanet.__main__ import main
from retinanet.cli import browse
from retinanet.engine.run_files import MARKER
from tests.helpers.checkpoints import untrained_checkpoint
from tests.helpers.processes import ENVIRONMENT
from tests.helpers.tiny_runs import write_tiny_dataset

RESULT = {"image_id": 1, "category_id": 2, "bbox": [5, 4, 22, 19], "score": 0.75}


@pytest.fixture
def annotations(tmp_path) -> str:
    return write_tiny_dataset(tmp_path / "images")["annotations"]


def data_in(page) -> dict:
    """The data that a page contains."""
    (block,) = re.findall(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(block)


def test_page_of_a_dataset_has_some_of_its_images(annotations, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["browse", annotations, "--output", str(page), "--limit", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"2 of 6 images: {page}"
    data = data_in(page)
    assert list(data["images"]) == ["0", "5"] and data["classes"] == ["cat", "dog"] and data["detections"] is None
    assert data["images"]["0"].startswith("data:image/jpeg;base64,")


def test_detections_are_shown_on_their_dataset(annotations, tmp_path):
    file, page = tmp_path / "found.json", tmp_path / "page.html"
    file.write_text(json.dumps([RESULT]))
    assert main(["browse", str(file), "--data", annotations, "--output", str(page)]) == 0
    data = data_in(page)
    assert len(data["images"]) == 6 and data["detections"] is not None
    with pytest.raises(SystemExit, match="2"):
        main(["browse", str(file), "--data", annotations, "--limit", "0"])


def test_run_shows_the_detections_of_its_evaluation(shapes, tmp_path, capsys):
    run, page = tmp_path / "run", tmp_path / "page.html"
    data = shutil.copytree(shapes, tmp_path / "data")
    untrained_checkpoint(run / "checkpoints", data)
    (run / MARKER).write_text("{}")
    arguments = ["browse", str(run), "--output", str(page)]
    assert main(arguments) == 2
    assert f"run `retinanet eval {run}` first" in capsys.readouterr().err
    assert not page.exists()
    image_id = json.loads((data / "val.json").read_text())["images"][0]["id"]
    (run / "detections.json").write_text(json.dumps([{**RESULT, "image_id": image_id}]))
    assert main(arguments) == 0
    assert data_in(page)["detections"] is not None
    for option in (["--split", "val"], ["--data", str(data)]):
        assert main([*arguments, *option]) == 2
        assert f"{option[0]}: a run has detections on its validation set only" in capsys.readouterr().err
    (data / "val.json").rename(tmp_path / "moved.json")
    assert main([*arguments, f"data.val.annotations={tmp_path / 'moved.json'}"]) == 0


def test_all_splits_of_a_dataset_are_shown_unless_one_is_chosen(tmp_path):
    folder, page = tmp_path / "data", tmp_path / "page.html"
    for split in ("train", "valid"):
        (folder / split).mkdir(parents=True)
        source = write_tiny_dataset(tmp_path / f"of_{split}")
        for image in (tmp_path / f"of_{split}").iterdir():
            image.rename(folder / split / image.name)
        os.rename(source["annotations"], folder / split / "_annotations.coco.json")
    assert main(["browse", str(folder), "--output", str(page)]) == 0
    data = data_in(page)
    assert data["splits"] == ["train", "valid"] and len(data["names"]) == 12
    assert main(["browse", str(folder), "--output", str(page), "--split", "valid"]) == 0
    assert len(data_in(page)["names"]) == 6


def test_folder_of_several_formats_and_images_elsewhere_are_shown_with_overrides(annotations, tmp_path, capsys):
    page, folder = tmp_path / "page.html", Path(annotations).parent
    (folder / "boxes.csv").write_text("filename,class,xmin,ymin,xmax,ymax\n")
    arguments = ["browse", str(folder), "--output", str(page)]
    assert main(arguments) == 2
    assert "Set data.train.format to one of" in capsys.readouterr().err
    assert main([*arguments, "data.train.format=coco"]) == 0
    elsewhere = tmp_path / "other" / "folder" / "elsewhere.json"
    elsewhere.parent.mkdir(parents=True)
    os.rename(annotations, elsewhere)
    arguments = ["browse", str(elsewhere), "--output", str(page)]
    assert main(arguments) == 2
    assert "set data.train.images to the folder of the images" in capsys.readouterr().err
    assert main([*arguments, f"data.train.images={folder / 'images'}"]) == 0
    assert len(data_in(page)["images"]) == 6


def test_without_a_screen_no_browser_takes_over_the_terminal(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not browse.has_screen()
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert browse.has_screen()


@pytest.mark.slow
def test_server_runs_until_ctrl_c_which_is_not_an_error(annotations, default_interrupts):
    command = [sys.executable, "-m", "retinanet", "browse", annotations, "--no-open"]
    with subprocess.Popen(
        command, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        line = process.stdout.readline()
        url = re.fullmatch(r"6 images: (http://127\.0\.0\.1:\d+/\S+/) \(Ctrl-C to stop\)\n", line)[1]
        assert b'id="data"' in urllib.request.urlopen(url, timeout=30).read()
        assert urllib.request.urlopen(url + "thumbnail/5", timeout=30).read().startswith(b"\xff\xd8")
        process.send_signal(signal.SIGINT)
        try:
            out, errors = process.communicate(timeout=30)
        finally:
            process.kill()  # the end of the `with` block would wait for it
    assert (process.returncode, out, errors.strip()) == (0, "", "stopped")
