"""`retinanet eval` on a run folder, and its output."""

import json
import shutil
import subprocess
import sys

import pytest

from retinanet.checkpoint.file import read_checkpoint, write_checkpoint
from retinanet.cli.eval import main
from retinanet.cli.predict import main as predict
from retinanet.evaluation.coco import METRICS
from retinanet.runtime.lock import try_lock
from tests.helpers.checkpoints import untrained_checkpoint
from tests.helpers.processes import ENVIRONMENT, REPO, run_commands

pytestmark = pytest.mark.usefixtures("restore_process_settings")


@pytest.fixture(scope="module")
def run(tmp_path_factory, shapes):
    """A run folder with one checkpoint."""
    folder = tmp_path_factory.mktemp("eval") / "run"
    untrained_checkpoint(folder / "checkpoints", shapes)
    (folder / "environment.json").write_text("{}")
    return folder


def test_run_folder_is_evaluated_and_results_are_written_to_it(run, capsys):
    assert main([str(run), "postprocess.min_score=0.001"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"checkpoint: {run / 'checkpoints' / 'last.pt'} (step_00000001.pt)\n")
    assert f"written: {run / 'evaluation.json'}, {run / 'detections.json'}\n" in printed
    assert "each class, and the score threshold with best F1:\nclass" in printed
    assert printed.splitlines()[-1] == json.loads((run / "evaluation.json").read_text())["finding"]
    assert json.loads((run / "evaluation.json").read_text())["checkpoint"] == str(run / "checkpoints" / "last.pt")


def test_scores_are_saved_before_they_are_printed(run, tmp_path, monkeypatch):
    class Unprintable(Exception):
        pass

    def stop(*texts, **options):
        raise Unprintable

    checkpoint = run / "checkpoints" / "last.pt"
    monkeypatch.setattr("builtins.print", stop)
    with pytest.raises(Unprintable):
        main([str(checkpoint), "--output", str(tmp_path / "out")])
    assert "AP" in json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (tmp_path / "out" / "detections.json").exists()


@pytest.mark.slow
def test_results_are_written_despite_a_closed_pipe(run, tmp_path):
    """For example, `retinanet eval ... | true`."""
    started = subprocess.Popen(
        [sys.executable, "-m", "retinanet", "eval", str(run), "--output", str(tmp_path / "out")],
        env=ENVIRONMENT,
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started.stdout.close()
    _, errors = started.communicate(timeout=300)
    assert started.returncode == 0 and "Traceback" not in errors and "BrokenPipe" not in errors
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"evaluation.json", "detections.json"}


def test_images_are_found_in_the_best_checkpoint_of_a_run_folder(run, shapes, tmp_path, capsys):
    arguments = [str(run), str(shapes / "val"), "--limit", "1", "--output", str(tmp_path), "--set", "device=cpu"]
    assert predict([*arguments, "postprocess.max_detections=3", "postprocess.min_score=0.001"]) == 0
    assert "checkpoint: " in capsys.readouterr().out
    assert len(json.loads((tmp_path / "detections.json").read_text())["annotations"]) == 3


# ---- options; most of these score a file of detections, which needs no network


@pytest.fixture(scope="module")
def truth_file(shapes, tmp_path_factory):
    """The objects of the validation set as detections, with scores that fall from image to image."""
    document = json.loads((shapes / "val.json").read_text())
    entries = [
        {
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": annotation["bbox"],
            "score": 1 - annotation["image_id"] / 100,
        }
        for annotation in document["annotations"]
    ]
    file = tmp_path_factory.mktemp("truth") / "found.json"
    file.write_text(json.dumps(entries))
    return file


def score(file, shapes, *arguments):
    data = [f"data.val.annotations={shapes / 'val.json'}", f"data.val.images={shapes / 'val'}"]
    return main([str(file), *data, *arguments])


def test_file_of_detections_is_scored_and_not_overwritten(truth_file, shapes, capsys):
    before = truth_file.read_bytes()
    assert score(truth_file, shapes) == 0
    assert "written: " + str(truth_file.parent / "evaluation.json") + "\n" in capsys.readouterr().out
    results = json.loads((truth_file.parent / "evaluation.json").read_text())
    assert results["AP"] == pytest.approx(1) and results["detections"] == str(truth_file)
    assert truth_file.read_bytes() == before and not (truth_file.parent / "detections.json").exists()


def test_written_detections_get_the_scores_of_the_checkpoint(run, shapes, tmp_path, capsys):
    arguments = ["postprocess.min_score=0", "postprocess.nms_iou=0.3", "--bootstrap", "0"]
    assert main([str(run), *arguments, "--output", str(tmp_path / "a")]) == 0
    assert score(tmp_path / "a" / "detections.json", shapes, "--output", str(tmp_path / "b"), "--bootstrap", "0") == 0
    of_checkpoint, of_file = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in "ab")
    assert of_checkpoint["AR100"] > 0
    assert [of_file[name] for name in METRICS] == [of_checkpoint[name] for name in METRICS]
    assert of_file["classes"] == of_checkpoint["classes"]


def test_json_is_all_that_is_printed_and_has_null_for_nan(run, shapes, tmp_path, capsys):
    empty = tmp_path / "empty.json"
    document = json.loads((shapes / "val.json").read_text())
    empty.write_text(json.dumps(document | {"annotations": []}))
    assert main([str(run), f"data.val.annotations={empty}", "--json", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    results = json.loads(printed.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert results["AP"] is None and results["classes"][0]["AP"] is None
    assert results["finding"].startswith("These images contain no objects")
    assert results == json.loads((tmp_path / "evaluation.json").read_text())
    assert "checkpoint: " in printed.err


def test_classes_images_and_sizes_select_a_part(truth_file, shapes, tmp_path, capsys):
    document = json.loads((shapes / "val.json").read_text())
    name_of = {category["id"]: category["name"] for category in document["categories"]}
    first = document["images"][0]
    small = [
        name_of[annotation["category_id"]]
        for annotation in document["annotations"]
        if annotation["image_id"] == first["id"] and annotation["area"] <= 32**2
    ]
    part = ["--classes", "star,disc", "--images", first["file_name"], "--sizes", "small"]
    assert score(truth_file, shapes, *part, "--output", str(tmp_path), "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert {entry["name"]: entry["objects"] for entry in results["classes"]} == {
        "star": small.count("star"),
        "disc": small.count("disc"),
    }
    assert results["restricted_to"] == {"classes": ["star", "disc"], "images": first["file_name"], "sizes": "small"}


@pytest.mark.parametrize("part", [["--classes", "star"], ["--images", "00000*"], ["--sizes", "small"]])
def test_part_of_the_data_does_not_replace_the_results_of_the_run(part, truth_file, shapes, capsys):
    before = {path: path.read_bytes() for path in truth_file.parent.iterdir() if path.is_file()}
    assert score(truth_file, shapes, *part) == 0
    assert "\nnot written, because only a part was scored; set --output\n" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in truth_file.parent.iterdir() if path.is_file()} == before


def test_thresholds_are_those_of_the_required_precision(truth_file, shapes, tmp_path, capsys):
    """All detections are right, so the best F1, precision 1 and recall 1 have the same threshold."""
    thresholds = []
    for option in ([], ["--precision", "1"], ["--recall", "1"]):
        assert score(truth_file, shapes, "--output", str(tmp_path), "--json", *option) == 0
        results = json.loads(capsys.readouterr().out)
        thresholds.append([entry["operating_point"]["threshold"] for entry in results["classes"]])
        assert all(entry["operating_point"]["recall"] == 1 for entry in results["classes"])
    assert thresholds[0] == thresholds[1] == thresholds[2]


def test_settings_that_change_ap_are_reported(truth_file, shapes, tmp_path, capsys):
    assert score(truth_file, shapes, "evaluation.max_detections=1", "--output", str(tmp_path)) == 0
    assert "note: evaluation.max_detections is 1: AP is not the one that COCO defines" in capsys.readouterr().out
    assert json.loads((tmp_path / "evaluation.json").read_text())["AP"] < 1


def test_report_is_written_and_named(truth_file, shapes, tmp_path, capsys):
    page = tmp_path / "page.html"
    part = ["--output", str(tmp_path), "--report", str(page), "--images", "00000[12]*"]
    assert score(truth_file, shapes, *part) == 0
    assert f"written: {tmp_path / 'evaluation.json'}, {page}\n" in capsys.readouterr().out
    text = page.read_text()
    assert f"Evaluation of {truth_file}" in text and "2 images" in text and "only these images" in text
    assert text.count("data:image/jpeg;base64,") >= 2
    assert json.loads((tmp_path / "evaluation.json").read_text())["finding"] in text


def test_report_replaces_only_its_own_pages(truth_file, shapes, tmp_path, capsys):
    page = tmp_path / "page.html"
    page.write_text("mine")
    assert score(truth_file, shapes, "--output", str(tmp_path / "out"), "--report", str(page)) == 2
    assert f"{page}: exists, and was not written by retinanet eval; choose another --report" in capsys.readouterr().err
    assert page.read_text() == "mine" and not (tmp_path / "out").exists()


def test_low_ap_is_diagnosed(truth_file, shapes, tmp_path, capsys):
    """All boxes are given at twice their size, as if they were in pixels of resized images."""
    entries = json.loads(truth_file.read_text())
    doubled = [entry | {"bbox": [2 * side for side in entry["bbox"]]} for entry in entries]
    (tmp_path / "doubled.json").write_text(json.dumps(doubled))
    assert score(tmp_path / "doubled.json", shapes, "--bootstrap", "0") == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "evaluation.json").read_text())
    diagnosis = results["diagnoses"][0]
    assert f"cause of the low AP: {diagnosis['cause']}\n  evidence: {diagnosis['evidence']}\n" in printed
    assert diagnosis["cause"] in results["finding"] == printed.splitlines()[-1]


def test_comparison_is_in_words(truth_file, shapes, tmp_path, capsys):
    half = tmp_path / "half.json"
    half.write_text(json.dumps(json.loads(truth_file.read_text())[::2]))
    assert score(truth_file, shapes, "--against", str(half), "--output", str(tmp_path)) == 0
    assert f"{truth_file} is better than {half} by " in capsys.readouterr().out
    results = json.loads((tmp_path / "evaluation.json").read_text())
    low, high = results["comparison"]["interval"]
    assert 0 < low < results["comparison"]["difference"] < high


def test_comparison_with_a_checkpoint_whose_classes_are_in_another_order(run, shapes, tmp_path, capsys):
    """The same network twice, in one with its class logits in reverse order."""
    checkpoint = read_checkpoint(run / "checkpoints" / "last.pt")
    weights, backwards = dict(checkpoint.weights()), dict(checkpoint.weights())
    last_weight, last_bias = [name for name in weights if name.startswith("head.class_subnet")][-2:]
    weights[last_weight] = 5 * weights[last_weight]  # so that rounding hardly changes the order of scores
    num_classes = len(checkpoint.class_names)
    for name in (last_weight, last_bias):
        backwards[name] = weights[name].unflatten(0, (-1, num_classes)).flip(1).flatten(0, 1)
    write_checkpoint(tmp_path / "a.pt", checkpoint._replace(state={"model": weights}))
    write_checkpoint(
        tmp_path / "b.pt", checkpoint._replace(state={"model": backwards}, class_names=checkpoint.class_names[::-1])
    )
    options = ["postprocess.min_score=0", "inference.precision=fp32", "--against", str(tmp_path / "b.pt")]
    assert main([str(tmp_path / "a.pt"), *options, "--output", str(tmp_path), "--bootstrap", "0"]) == 0
    results = json.loads((tmp_path / "evaluation.json").read_text())
    assert results["AP"] > 0
    assert results["comparison"]["difference"] == pytest.approx(0, abs=1e-9)


def test_stored_thresholds_are_used_by_predict(run, shapes, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    arguments = [str(tmp_path / "run"), "postprocess.min_score=0", "--store-thresholds"]
    assert main(arguments) == 0
    file = tmp_path / "run" / "checkpoints" / "last.pt"
    printed = capsys.readouterr().out
    assert f"thresholds stored in {file}" in printed
    assert file.is_symlink()
    results = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    points = [entry["operating_point"] for entry in results["classes"]]
    assert any(points)
    assert list(read_checkpoint(file).thresholds) == [point and point["threshold"] for point in points]
    assert predict([str(tmp_path / "run"), str(shapes / "val"), "--limit", "1", "--output", str(tmp_path / "out")]) == 0
    assert "using the score threshold of each class stored in the checkpoint" in capsys.readouterr().out


def test_thresholds_are_not_stored_while_a_run_trains(run, capsys):
    with try_lock(run / "retinanet.lock"):
        assert main([str(run), "--store-thresholds", "--bootstrap", "0"]) == 2
    assert "another process is training here" in capsys.readouterr().err
    assert read_checkpoint(run / "checkpoints" / "last.pt").thresholds is None


def test_wrong_arguments_are_refused_before_torch_is_imported(run, truth_file, tmp_path):
    messages = {
        f"{run} --precision 1.5": "argument --precision: found '1.5', expected a number from 0 to 1",
        f"{run} --precision 0.9 --recall 0.9": "--precision and --recall are mutually exclusive; pass one of them",
        f"{run} --report a.html --sizes small": "--report shows objects of all sizes; omit --sizes",
        f"{run} --store-thresholds --classes a": "--store-thresholds needs the thresholds of all objects",
        f"{run} --bootstrap many": "argument --bootstrap: found 'many', expected a whole number",
        f"{run} --classes a,,b": "argument --classes: found 'a,,b', expected different names separated by commas",
        f"{run} --against none": "none: no such checkpoint",
        f"{run} --against none.json": "--against: none.json: no such file of detections",
        "none.json": "none.json: no such file of detections",
        f"{truth_file}": "data.val: not set; add data.val=PATH",
        f"{truth_file} --weights last": "--weights needs a checkpoint, found a file of detections",
        f"{truth_file} data.val=none.json": "none.json: cannot be read: No such file or directory",
    }
    results = run_commands([f"eval {arguments}" for arguments in messages], tmp_path)
    for (line, result), message in zip(results.items(), messages.values(), strict=True):
        assert result.exit_code == 2 and message in result.errors, (line, result.errors)
        assert "Traceback" not in result.errors and not result.imports_torch, line
