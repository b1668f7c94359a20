"""Profile data loading: CPU time of each stage, from opening a file to the normalised batch."""

import copy
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from retinanet.data.collate import collate
from retinanet.data.reader import SampleReader
from retinanet.data.sampler import PlannedImage
from retinanet.data.transforms.partners import Partners, SampleTransform
from retinanet.data.transforms.sample import Sample
from retinanet.formats.images.reader import read_header
from retinanet.model.retinanet import RetinaNet

HEADER, DECODE, OTHER, COLLATE, NORMALISE = "open, read header", "decode", "other", "pad and collate", "normalise"
MILLISECONDS = 1000.0


class Stopwatch:
    """Sums CPU seconds per stage. On a machine shared with other work, they vary less than elapsed time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[stage] += time.process_time() - start


class TimedTransform:
    """Times a transform under the name of its class, in lower case."""

    def __init__(self, transform: SampleTransform, stopwatch: Stopwatch):
        self.transform, self.stopwatch = transform, stopwatch
        self.stage = type(transform).__name__.lower()

    def __call__(self, sample: Sample, planned: PlannedImage, partners: Partners) -> Sample:
        with self.stopwatch.measure(self.stage):
            return self.transform(sample, planned, partners)


def profile_stages(
    reader: SampleReader, batches: Sequence[list[PlannedImage]], network: RetinaNet, *, rounds: int
) -> dict[str, float]:
    """Load all batches in this process, `rounds` times, and return the median milliseconds per image of each stage.

    `other` is the rest of a sample's time: seeding, looking up its annotations, and checking its size.
    """
    count = sum(map(len, batches))
    per_round = [_one_round(reader, batches, network) for _ in range(rounds)]
    return {
        stage: MILLISECONDS * statistics.median(seconds[stage] for seconds in per_round) / count
        for stage in per_round[0]
    }


def _one_round(reader: SampleReader, batches: Sequence[list[PlannedImage]], network: RetinaNet) -> dict[str, float]:
    """Return the CPU seconds of each stage, in the order of the pipeline."""
    stopwatch = Stopwatch()
    transforms = [TimedTransform(transform, stopwatch) for transform in reader.transforms]
    timed = copy.copy(reader)
    timed.transforms = transforms
    for planned_batch in batches:
        prepared = []
        for planned in planned_batch:
            with stopwatch.measure(HEADER):  # a second time, to separate it from decoding
                read_header(reader.dataset.paths[planned.index], max_pixels=reader.settings.max_pixels)
            with stopwatch.measure("read"):
                sample = timed.read(planned.index)
            with stopwatch.measure("transform"):
                prepared.append(timed.transform(sample, planned))
        with stopwatch.measure(COLLATE):
            batch = collate(prepared)
        with stopwatch.measure(NORMALISE):
            network.normalise(batch.images, batch.image_sizes)
    seconds = stopwatch.seconds
    in_transforms = {transform.stage: seconds[transform.stage] for transform in transforms}
    return {
        HEADER: seconds[HEADER],
        DECODE: seconds["read"] - seconds[HEADER],
        **in_transforms,
        OTHER: seconds["transform"] - sum(in_transforms.values()),
        COLLATE: seconds[COLLATE],
        NORMALISE: seconds[NORMALISE],
    }
