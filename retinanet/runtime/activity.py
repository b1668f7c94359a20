"""Track the current activity of this process, for reports when it stalls, fails or runs out of memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from retinanet.structures import Batch


class Current(NamedTuple):
    """One phase of a run, such as "training", with the step and its batches."""

    began: float  # time.monotonic()
    phase: str
    step: int | None
    batches: Sequence[Batch]
    image_ids: Sequence[int | str]  # ids of all images in the batches


class Activity:
    """The current phase of a run. Each call to `begin` tells the watchdog that the process is making progress.

    Call `begin` once per step, and at the start of each phase between steps.
    """

    def __init__(self) -> None:
        self.begin("starting")

    def begin(
        self,
        phase: str,
        step: int | None = None,
        batches: Sequence[Batch] = (),
        image_ids: Sequence[int | str] = (),
    ) -> None:
        """Replace the current phase, and drop the reference to its batches."""
        # Use a single assignment, so that the watchdog thread never sees a partial update. `__str__` formats on demand.
        self.current = Current(time.monotonic(), phase, step, batches, image_ids)

    def __str__(self) -> str:
        """Phase, step and image ids, such as "training, step 6, images [12, 13]"."""
        current = self.current
        step = "" if current.step is None else f", step {current.step}"
        images = f", images {list(current.image_ids)}" if len(current.image_ids) else ""
        return f"{current.phase}{step}{images}"
