"""Benchmark complete training: loading images, transfer to the device, the step with its optimizer, and metrics.

Ours is the body of the training loop. torchvision's follows its reference scripts: a `DataLoader` over `CocoDetection`,
autocast and SGD. Both read the same images with the same number of workers, and resize them to the same size. In both,
workers keep a few batches ready between calls.
"""

import contextlib
import io
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from torch.optim import SGD
from torch.utils.data import DataLoader
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

from retinanet.benchmarks.convolutions import record, replay
from retinanet.benchmarks.measure import Variant, compare, ratio
from retinanet.benchmarks.networks import calibrated_backbone, torchvision_network, tuned_network
from retinanet.benchmarks.report import comparison_table, precision_name, table, to_plain_values
from retinanet.benchmarks.settings import Settings, SuiteResult, network_size
from retinanet.config import Config, DataConfig, DataSource, ModelConfig, ResizeConfig, ResNetConfig, TrainConfig
from retinanet.config.base import Precision
from retinanet.data.build import train_loader
from retinanet.data.synthetic.shapes import write_shapes
from retinanet.data.transfer import on_device
from retinanet.engine.run_folder import claim_folder
from retinanet.engine.setup import Run, set_up_run
from retinanet.engine.timing import RunTimer
from retinanet.engine.train import take_step
from retinanet.runtime.activity import Activity
from retinanet.runtime.device import autocast

SIZE, BATCH = (480, 640), 2
NUM_DRAWN = 64
ASPECT = 1.25  # width / height of the generated images
# Steps per call: on CUDA, far more than the number of prefetched batches; on a CPU, few, because steps are slow.
STEPS_ON_CUDA, STEPS_ELSEWHERE = 40, 2
ENDLESS = 10**6  # steps
PRECISIONS: dict[torch.dtype, Precision] = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
OURS, PLAIN, TUNED, CONVOLUTIONS = "ours", "torchvision", "torchvision tuned", "convolutions"


def run(settings: Settings) -> SuiteResult:
    size, batch = network_size(settings, SIZE), settings.batch or BATCH
    steps = STEPS_ON_CUDA if settings.device.type == "cuda" else STEPS_ELSEWHERE
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        images = write_landscapes(Path(folder) / "shapes")
        cfg = run_config(settings, images, size, batch)
        run_folder = Path(folder) / "run"
        stack.enter_context(claim_folder(run_folder))
        ours = set_up_run(cfg, run_folder, settings.device, resume=False, overwrite=False, profile=False)
        ours.state.model.backbone.load_state_dict(calibrated_backbone(settings.backbone))
        call = our_loop(ours, stack, steps)
        theirs = torchvision_network(ours.state.model, settings.backbone, size, skip_resize=True)
        theirs = theirs.to(settings.device).train()
        batches = torchvision_batches(images, settings, size, batch, stack)
        # A compiled network records no convolutions, so record those of the same network in eager mode.
        convolutions = record(lambda: eager_gradients(ours))
        variants = [Variant(OURS, call, check=is_finite, compiled=ours.compile)]
        for name, network, dtype in (
            (PLAIN, theirs, torch.float32),
            (TUNED, tuned_network(theirs, settings), settings.dtype),
        ):
            loop = torchvision_loop(
                network, batches, settings, dtype, steps=steps, category_ids=ours.train_data.category_ids
            )
            variants.append(Variant(name, loop, check=is_finite))
        variants.append(Variant(CONVOLUTIONS, repeated(replay(convolutions), steps)))
        measured = compare(variants, rounds=settings.rounds, device=settings.device, what="training")
    count = steps * batch
    share = measured[CONVOLUTIONS].median / measured[OURS].median
    title = (
        f"training: {settings.backbone}, {steps} steps of {batch} x {size[0]}x{size[1]}, {settings.workers} workers, "
        f"{precision_name(settings.dtype)} ({PLAIN}: float32), {'compiled' if ours.compile else 'eager'}"
    )
    rows = [[name, f"{count / measured[name].median:.1f}"] for name in (OURS, PLAIN, TUNED)]
    return SuiteResult(
        {
            "vs_torchvision": ratio(measured[PLAIN], measured[OURS]).of_rounds,
            "vs_torchvision_tuned": ratio(measured[TUNED], measured[OURS]).of_rounds,
            "vs_convolutions": ratio(measured[CONVOLUTIONS], measured[OURS]).of_rounds,
        },
        [
            comparison_table(title, measured, ours=OURS),
            table("images per second", ["", "median"], rows),
            f"share of our time that the convolutions alone take: {share:.0%}",
        ],
        {
            "size": size,
            "batch": batch,
            "steps": steps,
            "backbone": settings.backbone,
            "workers": settings.workers,
            "compiled": ours.compile,
            "images_per_s": {name: count / measured[name].median for name in (OURS, PLAIN, TUNED)},
            "share_of_convolutions": share,
            "variants": to_plain_values(measured, ours=OURS),
        },
    )


def write_landscapes(folder: Path) -> Path:
    """Generate images and keep only those in landscape format: mixed orientations would cause padding."""
    write_shapes(folder, num_train=NUM_DRAWN, num_val=1, progress=False)
    file = folder / "train.json"
    truth = json.loads(file.read_text(encoding="utf-8"))
    truth["images"] = [image for image in truth["images"] if image["width"] > image["height"]]
    kept = {image["id"] for image in truth["images"]}
    truth["annotations"] = [entry for entry in truth["annotations"] if entry["image_id"] in kept]
    file.write_text(json.dumps(truth), encoding="utf-8")
    return folder


def run_config(settings: Settings, images: Path, size: tuple[int, int], batch: int) -> Config:
    """The default config, with torchvision's network and the generated images."""
    shorter, longer = min(size), max(size)
    source = DataSource(images=str(images / "train"), annotations=str(images / "train.json"))
    resize = ResizeConfig(shorter=(shorter,), longer=longer, bucket_aspects=(ASPECT,))
    backbone = ResNetConfig(name=settings.backbone, weights="none", norm="frozen", frozen_stages=0)
    return Config(
        data=DataConfig(train=(source,), workers=settings.workers, resize=resize),
        model=ModelConfig(backbone=backbone, p6_from="p5"),
        train=TrainConfig(steps=ENDLESS, batch_size=batch, precision=PRECISIONS[settings.dtype]),
        device=str(settings.device),
    )


def our_loop(run: Run, stack: contextlib.ExitStack, steps: int) -> Callable[[], float]:
    """Return a function that takes the next steps of a run and returns their mean loss."""
    loader = train_loader(run.cfg, run.train_data, start=0, stop=ENDLESS, pin_memory=run.device.type == "cuda")
    batches = on_device(stack.enter_context(contextlib.closing(loader)), run.device)
    activity, timer = Activity(), RunTimer(earlier=0.0)

    def call() -> float:
        for _ in range(steps):
            take_step(run, batches, activity, timer)
        return run.state.running.read()["loss"]  # a run reads the metrics only once per log line

    return call


def eager_gradients(run: Run) -> None:
    """Compute the gradients of one batch without compiled code, and discard them."""
    (batch,) = train_loader(
        run.cfg.model_copy(update={"data": run.cfg.data.model_copy(update={"workers": 0})}),
        run.train_data,
        start=0,
        stop=1,
        pin_memory=False,
    )
    network = run.train_step.network
    run.train_step.network = Eager(run)
    try:
        run.train_step.backward([batch.to(run.device)])
    finally:
        run.train_step.network = network
        run.state.model.zero_grad(set_to_none=True)


class Eager(nn.Module):
    """The network of a run, without compilation."""

    def __init__(self, run: Run):
        super().__init__()
        self.model = run.state.model

    def forward(self, pixels: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        return self.model.outputs(pixels)


def torchvision_batches(
    images: Path, settings: Settings, size: tuple[int, int], batch: int, stack: contextlib.ExitStack
) -> Iterator[list[tuple[torch.Tensor, dict[str, torch.Tensor]]]]:
    """Endless batches of images and objects, resized, flipped and scaled to 0..1 by transforms.v2."""
    steps = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(min(size), max_size=max(size), antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    with contextlib.redirect_stdout(io.StringIO()):  # suppress the progress output of pycocotools
        data = CocoDetection(images / "train", images / "train.json", transforms=steps)
        data = wrap_dataset_for_transforms_v2(data, target_keys=("boxes", "labels"))
    loader = DataLoader(
        data,
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=settings.workers,
        collate_fn=list,
        pin_memory=settings.device.type == "cuda",
        persistent_workers=settings.workers > 0,
        prefetch_factor=4 if settings.workers else None,
    )
    stack.callback(lambda: setattr(loader, "_iterator", None))  # ends its workers
    return itertools.chain.from_iterable(itertools.repeat(loader))


def torchvision_loop(
    network: nn.Module,
    batches: Iterator[list[tuple[torch.Tensor, dict[str, torch.Tensor]]]],
    settings: Settings,
    dtype: torch.dtype,
    *,
    steps: int,
    category_ids: tuple[int, ...],
) -> Callable[[], float]:
    """Return a function that runs `steps` steps of torchvision's reference training, and returns the last loss."""
    label_of = torch.zeros(max(category_ids) + 1, dtype=torch.int64)
    label_of[list(category_ids)] = torch.arange(len(category_ids))
    optimizer = SGD(network.parameters(), lr=1e-5, momentum=0.9, weight_decay=1e-4)
    device = settings.device

    def call() -> float:
        for _ in range(steps):
            images, objects = zip(*next(batches), strict=True)
            images = [image.to(device, non_blocking=True) for image in images]
            objects = [
                {
                    "boxes": entry["boxes"].to(device, non_blocking=True),
                    "labels": label_of[entry["labels"]].to(device, non_blocking=True),
                }
                for entry in objects
            ]
            with autocast(device, dtype):
                loss = sum(network(images, objects).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    return call


def repeated(call: Callable[[], object], times: int) -> Callable[[], None]:
    def calls() -> None:
        for _ in range(times):
            call()

    return calls


def is_finite(loss: float) -> None:
    """Check that the loss is finite: arithmetic on NaN would distort the timing."""
    assert loss - loss == 0, f"the loss is {loss}"
