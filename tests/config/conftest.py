import pytest


@pytest.fixture
def write(tmp_path):
    """Write a config file, by default mine.yaml, and return its path."""

    def write_config(content, name="mine.yaml"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_config
