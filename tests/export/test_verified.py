from copy import deepcopy

import pytest

from retinanet.errors import InputError
from retinanet.export import verified
from retinanet.export.metadata import read_metadata
from retinanet.export.verified import check_output, export_verified
from retinanet.export.verify import ExportRejected
from retinanet.export.write import metadata_of
from retinanet.export.write import program_of as true_program_of
from tests.helpers.exports import eager, noise_images, small_predictor
from tests.helpers.openvino_files import write_openvino_text


@pytest.fixture(scope="module")
def predictor():
    return small_predictor()


def with_wrong_mean(predictor, *, nms):
    program = deepcopy(true_program_of(predictor, nms=nms))
    program.network.mean[:] = program.network.mean + 5
    return program


@pytest.fixture
def without_conversion(monkeypatch):
    """Write only the metadata, and run programs as they are; OpenVINO's two files stand for all formats."""
    programs = []

    def write_export(program, path, metadata, *, to, calibration):
        programs.append(program)
        write_openvino_text(path, metadata.model_dump_json())
        path.with_suffix(".bin").write_bytes(b"weights")

    monkeypatch.setattr(verified, "write_export", write_export)
    monkeypatch.setattr(verified, "open_export", lambda path, to: eager(programs[-1]))


def export(predictor, output, *, to="openvino"):
    metadata = metadata_of(predictor, checkpoint="", nms="outside")
    images = noise_images((64, 64), (64, 90), (90, 64))
    check_output(output, to)
    return export_verified(predictor, output, metadata, to=to, images=images)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_verified_export_gets_its_name(predictor, tmp_path, without_conversion):
    (result,) = export(predictor, tmp_path / "new" / "small.xml")
    assert result.startswith("4 images of 3 padded shapes, with ")
    assert names(tmp_path / "new") == ["numpy_runtime.py", "small.bin", "small.xml"]
    assert read_metadata(tmp_path / "new" / "small.xml").class_names == predictor.class_names


def test_rejected_export_leaves_nothing(predictor, tmp_path, without_conversion, monkeypatch):
    monkeypatch.setattr(verified, "program_of", with_wrong_mean)
    with pytest.raises(ExportRejected, match="is missing"):
        export(predictor, tmp_path / "small.xml")
    assert names(tmp_path) == []


def test_earlier_export_is_replaced_only_by_a_verified_one(predictor, tmp_path, without_conversion, monkeypatch):
    output = tmp_path / "small.xml"
    export(predictor, output)
    before = output.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(verified, "program_of", with_wrong_mean)
        with pytest.raises(ExportRejected):
            export(predictor, output)
    assert output.read_bytes() == before and len(names(tmp_path)) == 3
    export(small_predictor(thresholds=(0.2, 0.2, 0.2)), output)
    assert read_metadata(output).thresholds == (0.2, 0.2, 0.2)


@pytest.mark.parametrize(
    ("name", "existing", "message"),
    [
        ("small.onnx", {}, r"expected a name that ends with \.xml for --to openvino"),
        ("small.xml", {"small.xml": "<net/>"}, "not a file written by `retinanet export`.* this file is not replaced"),
        ("small.xml", {"small.bin": "data"}, r"small\.bin already exists; choose another name"),
        ("small.xml", {"numpy_runtime.py": "# mine"}, r"numpy_runtime\.py: already exists and is another file"),
        ("small.xml", {"small.xml/file": ""}, "is a folder; pass the name of a file in it"),
        ("file/small.xml", {"file": ""}, "cannot be written to"),
    ],
)
def test_other_files_are_never_replaced(tmp_path, name, existing, message):
    for file, text in existing.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=message):
        check_output(tmp_path / name, "openvino")
    assert all((tmp_path / file).read_text() == text for file, text in existing.items())


def test_full_disk_is_reported(predictor, small_disk, without_conversion, monkeypatch):
    def write_export(program, path, metadata, *, to, calibration):
        path.write_bytes(bytes(2**21))  # more than the disk holds

    monkeypatch.setattr(verified, "write_export", write_export)
    with pytest.raises(
        InputError, match=r"small\.xml: cannot be written: No space left on device; choose another folder"
    ):
        export(predictor, small_disk / "small.xml")
    assert names(small_disk) == []
