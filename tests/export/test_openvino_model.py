import pytest

from tests.helpers.exports import check_format

pytest.importorskip("onnx")
pytest.importorskip("openvino")


@pytest.mark.slow
def test_file_with_nms_inside_detects_what_the_predictor_detects(tmp_path):
    check_format(tmp_path / "small.xml", to="openvino", nms="inside")
