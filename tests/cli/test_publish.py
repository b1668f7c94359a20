"""`retinanet publish`, and the commands that accept a published folder."""

import json
import shutil

import pytest
import torch

from retinanet.checkpoint.file import read_checkpoint, write_checkpoint
from retinanet.checkpoint.save import store_thresholds
from retinanet.cli import ablate, predict, publish
from retinanet.cli import eval as evaluate
from retinanet.interop import hub
from retinanet.interop.published import read_published
from retinanet.interop.published_config import FILES
from retinanet.interop.torchvision import export_torchvision
from tests.helpers.checkpoints import untrained_checkpoint
from tests.helpers.published import detector

pytestmark = pytest.mark.usefixtures("restore_process_settings")
MIN_SCORE = "postprocess.min_score=0.001"  # an untrained network has low scores


@pytest.fixture(scope="module")
def run(tmp_path_factory, shapes):
    """A run folder with one checkpoint and its evaluation."""
    folder = tmp_path_factory.mktemp("publish") / "run"
    untrained_checkpoint(folder / "checkpoints", shapes)
    (folder / "environment.json").write_text("{}")
    assert evaluate.main([str(folder), MIN_SCORE, "--bootstrap", "100"]) == 0
    return folder


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """The run, published elsewhere; the run itself is not needed."""
    output = tmp_path_factory.mktemp("published") / "shapes"
    assert publish.main([str(run), "--output", str(output), "--license", "Apache-2.0"]) == 0
    return output


def data_of(shapes):
    return [f"data.val.images={shapes / 'val'}", f"data.val.annotations={shapes / 'val.json'}"]


def test_files_and_sizes_are_printed(run, tmp_path, capsys):
    assert publish.main([str(run), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"checkpoint: {run / 'checkpoints' / 'last.pt'} (step_00000001.pt)"
    assert printed[1] == f"written: {tmp_path / 'out'}"
    assert [line.split()[0] for line in printed[2:5]] == list(FILES)
    assert "% of the checkpoint's " in printed[2]
    assert printed[5:] == ["note: the model card states no licence; add --license ID"]


def test_card_has_the_evaluation_and_its_interval(run, folder):
    results = json.loads((run / "evaluation.json").read_text())
    card = (folder / "README.md").read_text()
    low, high = results["intervals"]["AP"]
    assert f"AP {results['AP']:.3f} (95 % interval {low:.3f} to {high:.3f}, 100 bootstrap resamples" in card
    assert "Note: evaluated with postprocess.min_score=0.001." in card
    assert "license: apache-2.0\n" in card and "\n# shapes\n" in card


def test_run_without_evaluation_gets_a_note(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    (tmp_path / "run" / "evaluation.json").unlink()
    assert publish.main([str(tmp_path / "run"), "--output", str(tmp_path / "out"), "--license", "mit"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "note: the model card says that the weights were not evaluated; run `retinanet eval`, then publish again with "
        "--overwrite"
    )
    assert "**Not evaluated:**" in (tmp_path / "out" / "README.md").read_text()


def test_evaluation_of_the_folder_gives_the_scores_of_the_run(run, folder, shapes, tmp_path, capsys):
    arguments = [MIN_SCORE, "--bootstrap", "0", "--output", str(tmp_path)]
    assert evaluate.main([str(folder), *data_of(shapes), *arguments]) == 0
    expected, found = (json.loads((path / "evaluation.json").read_text()) for path in (run, tmp_path))
    scores = [name for name, value in expected.items() if isinstance(value, float)]
    assert "AP" in scores and "loss" in scores
    assert {name: found[name] for name in scores} == {name: expected[name] for name in scores}
    assert (run / "detections.json").read_bytes() == (tmp_path / "detections.json").read_bytes()


def test_evaluation_leaves_the_folder_unchanged(folder, shapes, capsys):
    assert evaluate.main([str(folder), *data_of(shapes), MIN_SCORE, "--bootstrap", "0"]) == 0
    assert "\nnot written, because a published folder stays unchanged; set --output\n" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert list(folder.parent.iterdir()) == [folder]


def test_folder_can_be_compared_with_its_run(run, folder, capsys):
    arguments = [MIN_SCORE, "--bootstrap", "0", "--images", "00000[12]*", "--json"]
    assert evaluate.main([str(run), "--against", str(folder), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["comparison"]["difference"] == 0


def test_prediction_equals_that_of_the_run(run, folder, shapes, tmp_path):
    options = ["--limit", "2", "--batch-size", "1", MIN_SCORE]
    for source, name in ((run, "a"), (folder, "b")):
        assert predict.main([str(source), str(shapes / "val"), "--output", str(tmp_path / name), *options]) == 0
    assert (tmp_path / "a" / "detections.json").read_bytes() == (tmp_path / "b" / "detections.json").read_bytes()
    assert len(json.loads((tmp_path / "b" / "detections.json").read_text())) > 0


def test_stored_thresholds_are_published(run, tmp_path):
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    thresholds = (0.25, None, *(0.5 for _ in read_checkpoint(run / "checkpoints" / "last.pt").class_names[2:]))
    store_thresholds(tmp_path / "run" / "checkpoints" / "last.pt", thresholds)
    assert publish.main([str(tmp_path / "run"), "--output", str(tmp_path / "out")]) == 0
    assert read_published(tmp_path / "out").thresholds == thresholds


def error_of(command, *arguments, capsys):
    assert command.main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err.removeprefix("error: ").rstrip("\n")


def test_user_errors_of_other_commands(folder, shapes, capsys):
    def rejected(command, *arguments):
        return error_of(command, *arguments, capsys=capsys)

    assert "a published folder does not say where data is; add data.val=PATH" in rejected(evaluate, folder)
    stored = rejected(evaluate, folder, *data_of(shapes), "--store-thresholds")
    assert stored == (
        f"--store-thresholds: {folder} is a published folder; store them in its checkpoint, and publish it again"
    )
    weights = rejected(evaluate, folder, *data_of(shapes), "--weights", "last")
    assert weights.endswith("found weights=last, but a published folder has only one set; omit weights")
    figures = rejected(ablate, "figures", folder, *data_of(shapes))
    assert figures == f"{folder}: a published folder stays unchanged; add --output DIR"


def test_existing_folders_are_refused_before_the_checkpoint_is_read(run, folder, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    message = error_of(publish, run, "--output", folder, capsys=capsys)
    assert message == f"{folder}: is a published folder; replace it with --overwrite, or choose another --output"
    message = error_of(publish, run, "--output", tmp_path / "photos", "--overwrite", capsys=capsys)
    assert message == (
        f"{tmp_path / 'photos'}: contains a.jpg, which `retinanet publish` did not write; choose another --output"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN"], "--output is missing; add --output DIR, the folder to write"),
        (["PUBLISHED", "--to", "torchvision"], "--output is missing; add --output FILE, the file to write"),
        (
            ["RUN", "--to", "torchvision", "--output", "x.pth", "--license", "mit"],
            "--license does not apply to a file of weights; omit it, or --to torchvision",
        ),
        (["RUN", "--output", "x", "--public"], "--public has no effect without --upload; add --upload OWNER/NAME"),
        (["RUN", "--output", "x", "--license", "my own"], "argument --license: found 'my own', expected an identifier"),
        (["PUBLISHED"], "PUBLISHED is published already; add --upload OWNER/NAME to upload it"),
        (
            ["PUBLISHED", "--upload", "a/b", "--license", "mit"],
            "--license does not apply to a published folder; edit its README.md, or pass its checkpoint",
        ),
    ],
)
def test_contradictory_arguments(run, folder, arguments, message, capsys):
    paths = {"RUN": str(run), "PUBLISHED": str(folder)}
    with pytest.raises(SystemExit) as stop:
        publish.main([paths.get(word, word) for word in arguments])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"retinanet publish: {message.replace('PUBLISHED', str(folder))}")


@pytest.fixture
def uploads(monkeypatch):
    """Uploads that would have been made: folder, id and whether they are public."""
    found = []

    def upload(path, hub_id, *, public):
        found.append((path, hub_id, public))
        return f"https://hub.example/{hub_id}"

    monkeypatch.setattr(hub, "upload", upload)
    monkeypatch.setattr(hub, "check_uploadable", lambda hub_id: None)
    return found


def test_folder_is_written_and_uploaded_privately(run, tmp_path, uploads, capsys):
    assert publish.main([str(run), "--output", str(tmp_path / "out"), "--upload", "my-lab/shapes"]) == 0
    assert uploads == [(tmp_path / "out", "my-lab/shapes", False)]
    assert capsys.readouterr().out.endswith("uploaded: https://hub.example/my-lab/shapes\n")
    assert 'from_pretrained("my-lab/shapes")' in (tmp_path / "out" / "README.md").read_text()


def test_published_folder_is_uploaded_as_it_is(folder, uploads):
    before = (folder / "README.md").read_bytes()
    assert publish.main([str(folder), "--upload", "my-lab/shapes", "--public"]) == 0
    assert uploads == [(folder, "my-lab/shapes", True)] and (folder / "README.md").read_bytes() == before


def test_invalid_id_is_rejected_before_anything_is_written(run, tmp_path, capsys):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is optional: pip install retinanet[hub]")
    message = error_of(publish, run, "--output", tmp_path / "out", "--upload", "shapes", capsys=capsys)
    assert message == "shapes: not an id on a hub; expected owner/name, such as my-lab/cells"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["run", "folder"])
def test_export_of_a_run_or_of_a_published_folder(source, run, folder, tmp_path, capsys):
    """The network of the run is not one of torchvision's."""
    path = {"run": run, "folder": folder}[source]
    message = error_of(publish, path, "--to", "torchvision", "--output", tmp_path / "a.pth", capsys=capsys)
    assert message.startswith("model.backbone.name is resnet10_half: torchvision cannot represent this detector")
    message = error_of(publish, path, "--to", "torchvision", "--output", tmp_path / "out", capsys=capsys)
    assert message.endswith(f"choose another --output, such as {tmp_path / 'out.pth'}")
    assert list(tmp_path.iterdir()) == []


def test_exported_file_is_that_of_write_export(tmp_path, capsys):
    overrides = ("model.backbone.name=resnet18", "model.head_convs=4", "model.head_norm=none")
    checkpoint = detector(*overrides, "model.anchors.rounding=torchvision", average=True)
    write_checkpoint(tmp_path / "model.pt", checkpoint)
    assert publish.main([str(tmp_path / "model.pt"), "--to", "torchvision", "--output", str(tmp_path / "a.pth")]) == 0
    assert capsys.readouterr().out.startswith(f"written: {tmp_path / 'a.pth'} (")
    found, expected = torch.load(tmp_path / "a.pth", weights_only=True), export_torchvision(checkpoint)
    assert list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in expected)
