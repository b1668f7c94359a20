"""The command `retinanet export`; conversions take long, so most of these tests run the program as it is."""

import shutil

import numpy as np
import pytest

from retinanet.__main__ import main
from retinanet.checkpoint.file import Checkpoint, file_checksum, read_checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.config.load import load_config
from retinanet.export import metadata as metadata_module
from retinanet.export import verified
from retinanet.export.metadata import read_metadata
from retinanet.model.retinanet import build_model
from tests.helpers.checkpoints import untrained_checkpoint
from tests.helpers.exports import eager
from tests.helpers.multiband import overrides_for, write_pairs
from tests.helpers.openvino_files import write_openvino_text
from tests.helpers.published import published

FINDS_MANY = "postprocess.min_score=0.001"  # an untrained network finds nothing with a higher score


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, shapes):
    return untrained_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints", shapes)


@pytest.fixture
def export(monkeypatch, checkpoint, tmp_path, restore_process_settings):
    """Run the command for OpenVINO, with a change of the outputs; `export.output` is the file."""

    def run(*arguments, source=checkpoint, change=lambda boxes, scores, labels: (boxes, scores, labels), to="openvino"):
        programs = []

        def write_export(program, path, metadata, *, to, calibration):
            programs.append(program)
            write_openvino_text(path, metadata.model_dump_json())

        monkeypatch.setattr(verified, "write_export", write_export)
        monkeypatch.setattr(verified, "open_export", lambda *_, **__: lambda *pair: change(*eager(programs[-1])(*pair)))
        command = ["export", str(source), "--to", to, "--output", str(run.output), *map(str, arguments)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(metadata_module, "find_spec", lambda name: object())
            return main(command)

    run.output = tmp_path / "exported" / "shapes.xml"
    return run


def test_export_is_verified_on_the_validation_set(export, checkpoint, shapes, capsys):
    assert export(FINDS_MANY, "--verify", shapes / "val.json") == 0
    out = capsys.readouterr().out
    assert "verified: 9 images of " in out and "verified: AP " in out and f"written: {export.output}" in out
    metadata = read_metadata(export.output)
    assert metadata.checkpoint == file_checksum(checkpoint) and metadata.min_score == 0.001
    assert metadata.nms == "outside" and metadata.shorter == 64 and metadata.channels == 3


def test_different_detections_end_with_code_1_and_leave_no_file(export, capsys):
    assert export(FINDS_MANY, change=lambda boxes, scores, labels: (boxes + np.float32(1), scores, labels)) == 1
    assert "error: not written, because the exported program differs: " in capsys.readouterr().err
    assert list(export.output.parent.iterdir()) == []


def test_own_images_and_a_fixed_size(export, shapes, tmp_path, capsys):
    shutil.copytree(shapes / "val", tmp_path / "mine")
    assert export(FINDS_MANY, "--images", tmp_path / "mine", "--size", "64x80") == 0
    assert " images of 1 padded shapes" in capsys.readouterr().out
    assert read_metadata(export.output).padded_shape == (64, 80)


def test_without_validation_set_generated_images_are_used(export, caplog, tmp_path):
    missing = [f"data.val.annotations={tmp_path / 'moved.json'}", f"data.val.images={tmp_path / 'moved'}"]
    assert export(FINDS_MANY, *missing) == 0
    assert "verifying on generated images" in caplog.text and "moved.json" in caplog.text


def test_published_folder(export, checkpoint, tmp_path, caplog):
    folder = published(tmp_path / "published", read_checkpoint(checkpoint))
    assert export(FINDS_MANY, source=folder) == 0
    assert "verifying on generated images" in caplog.text  # a published folder does not say where its data is
    assert read_metadata(export.output).checkpoint == file_checksum(folder / "model.safetensors")


def test_images_with_bands_in_several_files(export, tmp_path, capsys):
    source = write_pairs(tmp_path / "pairs", count=3)
    overrides = overrides_for(source, 4, 'data.band_files=["rgb/{stem}.png", "thermal/{stem}.tif"]', "model.prior=0.3")
    cfg = load_config("quickstart", overrides)
    checkpoint = Checkpoint(cfg, ("object",), (1,), 1, {"model": build_model(cfg.model, 1).state_dict()})
    file = CheckpointFolder(tmp_path / "checkpoints", keep=1).save(checkpoint)
    assert export("--verify", source["annotations"], source=file) == 0
    out = capsys.readouterr().out
    assert "verified: 4 images" in out and "AP " in out  # with a blank one
    (tmp_path / "pairs/thermal/1.tif").unlink()
    assert export("--verify", source["annotations"], source=file) == 2  # before any image is read
    assert "1 of 3 images lack a file of data.band_files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "65x80"], "images of this config are padded to 64x"),
        (["--size", "64"], "expected HEIGHTxWIDTH"),
        (["--verify", "missing.json"], "--verify"),
        (["--to", "aot", "--int8", "--verify", "val.json"], "--int8 needs --to onnx or openvino, found --to aot"),
        (["--images", "."], "found no images; pass a folder of images with objects"),
        (["data.resize.shorte=3"], "data.resize.shorte"),
    ],
)
def test_unusable_arguments_end_with_code_2(export, capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    try:
        code = export(*arguments)
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not export.output.exists()


def test_int8_needs_a_dataset(export, capsys):
    export.output = export.output.with_suffix(".onnx")
    with pytest.raises(SystemExit) as exit:
        export("--int8", to="onnx")
    assert exit.value.code == 2 and "only AP can be verified; pass --verify DATA" in capsys.readouterr().err


def test_aot_needs_a_size_or_multiples_of_the_stride(export, capsys):
    export.output = export.output.with_suffix(".pt2")
    assert export(to="aot") == 2
    expected = (
        "multiples of 32, but data.resize.divisor is 8; pass --size HxW, such as 64x64, or set data.resize.divisor=32"
    )
    assert expected in capsys.readouterr().err


def test_aot_needs_a_compiler(export, capsys, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    export.output = export.output.with_suffix(".pt2")
    assert export("--size", "64x64", to="aot") == 2
    assert "--to aot: needs a C++ compiler (no-such-compiler not found" in capsys.readouterr().err


def test_missing_packages_are_named(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(metadata_module, "find_spec", lambda name: None)
    assert main(["export", str(checkpoint), "--to", "onnx", "--output", str(tmp_path / "a.onnx")]) == 2
    assert "run: pip install 'retinanet[export]'" in capsys.readouterr().err
