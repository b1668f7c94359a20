"""The settings that all results in an output folder share."""

from retinanet.checkpoint.link import PREFIX
from retinanet.config.load import load_config
from retinanet.prediction.outputs import Outputs
from retinanet.prediction.settings import settings_of


def test_a_text_file_that_links_to_a_checkpoint_stands_for_its_content(tmp_path):
    """Where symbolic links are not supported, best.pt contains the name of the checkpoint."""
    checkpoint, link = tmp_path / "step_00000001.pt", tmp_path / "best.pt"
    link.write_bytes(PREFIX + checkpoint.name.encode() + b"\n")

    def recorded(path):
        return settings_of(path, load_config("quickstart"), [0.3], Outputs())["checkpoint"]

    checkpoint.write_bytes(b"first")
    first = recorded(link)
    assert first == recorded(checkpoint)
    checkpoint.write_bytes(b"second")
    assert recorded(link) == recorded(checkpoint) != first
