"""Peak memory, and explanations of out-of-memory errors: the current batches, and settings that reduce memory use."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from retinanet.config import Config
from retinanet.errors import InputError, first_line
from retinanet.runtime.activity import Activity
from retinanet.runtime.distributed import world_size


def peak_memory(device: torch.device) -> int | None:
    """Peak memory of this process so far in bytes, on the GPU for CUDA, otherwise on the host; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # bytes on macOS, KiB elsewhere


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the accelerator or the host is out of memory.

    torch has a dedicated error type only for accelerators.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The DataLoader raises the second message when the kernel has killed a worker.
    found = ("can't allocate memory", "killed by signal: Killed")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in found)


@contextmanager
def explained(cfg: Config, activity: Activity) -> Iterator[None]:
    """Convert out-of-memory errors in the `with` block to messages with the current batches and the keys to change.

    Raises:
        InputError: memory ran out.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(out_of_memory_message(error, cfg, activity)) from error


def out_of_memory_message(error: BaseException, cfg: Config, activity: Activity) -> str:
    """Describe the current batches, and name the config keys that reduce memory use."""
    batches = activity.current.batches
    batch_sizes = [len(batch.images) for batch in batches]
    shapes = " and ".join(sorted({"x".join(map(str, batch.images.shape[-2:])) for batch in batches}))
    boxes = max((batch.targets.boxes.shape[1] for batch in batches), default=0)
    sizes = f"{' + '.join(map(str, batch_sizes))} images of {shapes} pixels and up to {boxes} boxes each"
    can_checkpoint = "checkpoint_activations" in type(cfg.model.backbone).model_fields
    checkpointing = ", or set model.backbone.checkpoint_activations=true" if can_checkpoint else ""
    smaller = "" if cfg.custom.model else f", model.channels ({cfg.model.channels}){checkpointing}"
    return (
        f"{activity}: out of memory with {sizes if batches else 'no images'} in this process ({world_size()} in all): "
        f"{first_line(error)}; raise "
        f"train.accumulate (now {cfg.train.accumulate}: results stay the same, except with batch norm), or lower "
        f"train.batch_size ({cfg.train.batch_size}; during evaluation, lowering train.eval_batch_size is enough), "
        f"data.resize.shorter and longer ({max(cfg.data.resize.shorter)}, {cfg.data.resize.longer}){smaller}"
    )
