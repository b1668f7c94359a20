import pytest

from tests.helpers.exports import check_format


@pytest.mark.slow
def test_file_detects_what_the_predictor_detects(tmp_path):
    check_format(tmp_path / "small.pt2", to="torch-export", nms="outside")
