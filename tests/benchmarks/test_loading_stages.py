from PIL import Image

from retinanet.benchmarks import loading_stages
from retinanet.benchmarks.loading_stages import profile_stages
from retinanet.data import reader as reader_module
from retinanet.data.reader import SampleReader
from retinanet.data.sampler import PlannedImage
from retinanet.formats.images.settings import ImageSettings
from tests.helpers.datasets import dataset_of, image_record


class Clock:
    """A clock that advances only in stages."""

    def __init__(self):
        self.now = 0.0

    def during(self, seconds, function):
        """Wrap a function so that it advances the clock by a known time."""

        def call(*args, **kwargs):
            self.now += seconds
            return function(*args, **kwargs)

        return call


def test_each_stage_has_its_own_time_per_image(tmp_path, monkeypatch):
    clock = Clock()

    class Flip:
        def __call__(self, sample, planned, partners):
            clock.now += 3
            return sample

    class Network:
        normalise = staticmethod(clock.during(10, lambda images, sizes: None))

    monkeypatch.setattr(loading_stages.time, "process_time", lambda: clock.now)
    monkeypatch.setattr(loading_stages, "read_header", clock.during(1, loading_stages.read_header))
    monkeypatch.setattr(loading_stages, "collate", clock.during(4, loading_stages.collate))
    monkeypatch.setattr(SampleReader, "read", clock.during(1 + 2, SampleReader.read))  # header and pixels
    monkeypatch.setattr(reader_module, "stable_hash", clock.during(0.5, reader_module.stable_hash))  # the seed
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    dataset = dataset_of([image_record(tmp_path / "image.png", 8, 8)] * 4)
    planned = [PlannedImage(index, 0, 8, 8, (32, 32), (32, 32)) for index in range(4)]
    reader = SampleReader(dataset, [Flip()], seed=0, settings=ImageSettings(max_pixels=100))
    milliseconds = profile_stages(reader, [planned[:2], planned[2:]], Network(), rounds=3)
    # Per image; batches of two share the time to collate and to normalise.
    assert milliseconds == {
        "open, read header": 1000,
        "decode": 2000,
        "flip": 3000,
        "other": 500,
        "pad and collate": 2000,
        "normalise": 5000,
    }
