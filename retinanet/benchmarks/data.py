"""Benchmark data loading: images per second, from files to normalised batches on the CPU, and CPU time of each stage.

Each call reads the folder several times.
"""

import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from retinanet.benchmarks.loading_stages import profile_stages
from retinanet.benchmarks.measure import Variant, compare, ratio
from retinanet.benchmarks.report import comparison_table, table, to_plain_values
from retinanet.benchmarks.settings import Settings, SuiteResult
from retinanet.config import DataConfig, DataSource, ModelConfig, ResizeConfig, ResNetConfig
from retinanet.data.build import build_padded_shapes, eval_shorter
from retinanet.data.loader import make_loader
from retinanet.data.reader import SampleReader
from retinanet.data.sampler import PlannedImage, eval_batches
from retinanet.data.synthetic.shapes import write_shapes
from retinanet.data.transforms.orientation import Flip
from retinanet.data.transforms.sizing import Resize
from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset
from retinanet.formats.images.settings import ImageSettings
from retinanet.formats.read import read_dataset
from retinanet.model.retinanet import RetinaNet, build_model

OURS, THEIRS = "ours", "torchvision"
NUM_DRAWN, BATCH = 48, 4
MIN_IMAGES = 96  # per call, so that the time to start workers is negligible


def run(settings: Settings) -> SuiteResult:
    if (settings.images is None) != (settings.annotations is None):
        given = "--images" if settings.images else "--annotations"
        raise InputError(f"found only {given}, expected both --images and --annotations, or neither")
    if settings.images is not None:
        return measure(settings, settings.images, settings.annotations)
    with tempfile.TemporaryDirectory() as folder:
        shapes = Path(folder) / "shapes"
        write_shapes(shapes, num_train=NUM_DRAWN, num_val=1, progress=False)
        return measure(settings, shapes / "train", shapes / "train.json")


def measure(settings: Settings, images: Path, annotations: Path) -> SuiteResult:
    resize = ResizeConfig(shorter=min(settings.size), longer=max(settings.size)) if settings.size else ResizeConfig()
    cfg = DataConfig(resize=resize)
    batch = settings.batch or BATCH
    data = read_dataset((DataSource(images=str(images), annotations=str(annotations)),))
    times = -(-MIN_IMAGES // len(data))
    count = times * len(data)
    worker_counts = tuple(dict.fromkeys((0, settings.workers)))
    pipeline = Pipeline(data, cfg, batch)
    variants = []
    for workers in worker_counts:
        for name, call in (
            (OURS, pipeline.call(workers, times)),
            (THEIRS, torchvision_call(images, annotations, cfg, batch, workers, times)),
        ):
            variants.append(Variant(variant_name(name, workers), call, check=expect_count(count), on_device=False))
    measured = compare(variants, rounds=settings.rounds, device=torch.device("cpu"), what="data")

    tables = []
    details = {
        "images": count,
        "source": "drawn" if settings.images is None else str(annotations),
        "shorter": eval_shorter(cfg),
        "longer": cfg.resize.longer,
        "batch": batch,
    }
    for workers in worker_counts:
        title = f"data: {count} images, shorter side to {eval_shorter(cfg)}, batches of {batch}, {workers} workers" + (
            " (start-up included)" if workers else ""
        )
        ours = variant_name(OURS, workers)
        pair = {name: measured[name] for name in (ours, variant_name(THEIRS, workers))}
        rows = [[name, f"{count / entry.median:.1f}", f"{count / entry.fastest:.1f}"] for name, entry in pair.items()]
        tables += [comparison_table(title, pair, ours=ours), table("images/s", ["", "median", "fastest"], rows)]
        details[f"{workers}_workers"] = {
            "images_per_s": {name: count / entry.median for name, entry in pair.items()},
            "variants": to_plain_values(pair, ours=ours),
        }
    stages = pipeline.stages(settings.rounds)
    total = sum(stages.values())
    rows = [[stage, f"{ms:.2f}", f"{ms / total:.0%}"] for stage, ms in [*stages.items(), ("all", total)]]
    tables.append(table("CPU time of each stage", ["", "ms/image", "share"], rows))
    details["stages_ms"] = stages
    single = ratio(measured[variant_name(THEIRS, 0)], measured[variant_name(OURS, 0)])
    return SuiteResult({"vs_torchvision": single.of_rounds}, tables, details)


def variant_name(name: str, workers: int) -> str:
    return f"{name}, {workers} workers"


def expect_count(expected: int) -> Callable[[int], None]:
    def check(count: int) -> None:
        if count != expected:
            raise RuntimeError(f"{count} images were read, expected {expected}: the variants would do different work")

    return check


class Pipeline:
    """Our pipeline: read, resize, flip, pad and normalise the images of a dataset."""

    def __init__(self, data: Dataset, cfg: DataConfig, batch: int):
        shapes = build_padded_shapes(cfg)
        self.batches: list[list[PlannedImage]] = eval_batches(
            data.sizes.tolist(), batch_size=batch, shorter=eval_shorter(cfg), padded_shapes=shapes
        )
        settings = ImageSettings(max_pixels=cfg.max_pixels)
        self.reader: SampleReader = SampleReader(data, [Resize(), Flip(0.5)], seed=0, settings=settings)
        backbone = ResNetConfig(name="resnet18", weights="none", frozen_stages=0)
        self.network: RetinaNet = build_model(ModelConfig(backbone=backbone), 1)  # for `normalise`

    def call(self, workers: int, times: int) -> Callable[[], int]:
        """Return a function that loads all images several times and returns their number."""

        def call() -> int:
            loader = make_loader(
                self.reader, self.batches * times, workers=workers, pin_memory=False, replace_unreadable=False
            )
            return sum(len(self.network.normalise(batch.images, batch.image_sizes)) for batch in loader)

        return call

    def stages(self, rounds: int) -> dict[str, float]:
        """Return the CPU time of each stage, in milliseconds per image."""
        return profile_stages(self.reader, self.batches, self.network, rounds=rounds)


def torchvision_call(
    images: Path, annotations: Path, cfg: DataConfig, batch: int, workers: int, times: int
) -> Callable[[], int]:
    """Like `Pipeline.call`, for torchvision's reference pipeline, in which the model resizes, pads and normalises.

    There are no aspect-ratio buckets, because both variants read the images in the same order.
    """
    steps = [v2.ToImage(), v2.RandomHorizontalFlip(0.5), v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()]
    with contextlib.redirect_stdout(io.StringIO()):  # suppress the progress output of pycocotools
        data = CocoDetection(images, annotations, transforms=v2.Compose(steps))
        data = wrap_dataset_for_transforms_v2(data, target_keys=("boxes", "labels"))
    repeated = Subset(data, list(range(len(data))) * times)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    in_model = GeneralizedRCNNTransform(eval_shorter(cfg), cfg.resize.longer, mean, std)
    no_boxes = {"boxes": torch.empty(0, 4)}  # torchvision omits the key for an image without boxes

    def call() -> int:
        loader = DataLoader(repeated, batch_size=batch, num_workers=workers, collate_fn=list)
        count = 0
        for read in loader:
            found, _ = in_model([image for image, _ in read], [no_boxes | target for _, target in read])
            count += len(found.tensors)
        return count

    return call
