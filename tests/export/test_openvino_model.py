import pytest

from tests.helpers.exports import check_format

pytest.importorskip("onnx")
pytest.importorskip("openvino")
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("nms", "size"), [("inside", (64, 96)), ("outside", None)])
def test_model_detects_what_the_predictor_detects(tmp_path, nms, size):
    check_format(tmp_path / "small.xml", to="openvino", nms=nms, size=size)
