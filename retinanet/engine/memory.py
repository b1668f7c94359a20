"""What to say when memory runs out."""

import torch

from retinanet.config import Config
from retinanet.distributed import world_size
from retinanet.structures import Batch


def is_out_of_memory(error: BaseException) -> bool:
    """Of an accelerator or of the host: torch has a type of error for the first alone."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def out_of_memory_message(error: BaseException, cfg: Config, batches: list[Batch], doing: str) -> str:
    """The sizes at hand, and the keys that lower them.

    Args:
        batches: being computed on.
        doing: phase, step and image ids.
    """
    pictures = [len(batch.images) for batch in batches]
    shapes = " and ".join(sorted({"x".join(map(str, batch.images.shape[-2:])) for batch in batches}))
    boxes = max((batch.targets.boxes.shape[1] for batch in batches), default=0)
    return (
        f"{doing}: out of memory with {' + '.join(map(str, pictures))} pictures of {shapes} pixels and up to "
        f"{boxes} boxes each in this process ({world_size()} in all): {str(error).splitlines()[0][:200]}; raise "
        f"train.accumulate (now {cfg.train.accumulate}: results stay the same, but for norms of batches), or lower "
        f"train.batch_size ({cfg.train.batch_size}; in evaluation train.eval_batch_size is enough), "
        f"data.resize.shorter and longer ({max(cfg.data.resize.shorter)}, {cfg.data.resize.longer}), model.channels "
        f"({cfg.model.channels}), or set model.checkpoint_activations=true"
    )
