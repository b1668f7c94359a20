"""A detector read from the weights of another framework."""

from dataclasses import dataclass

from torch import Tensor

from retinanet.checkpoint.file import Checkpoint
from retinanet.config import Config, DataConfig, ModelConfig, PostprocessConfig, ResizeConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class ImportedDetector:
    """A detector read from another framework's weights, in our terms.

    `build_model(model, len(class_names))` loads `state` strictly.
    """

    source: str  # what was read, for messages and model cards
    model: ModelConfig  # architecture that fits the weights
    resize: ResizeConfig  # image sizes of the original detector
    postprocess: PostprocessConfig  # thresholds of the original detector
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # of COCO, if the classes are those of COCO; otherwise counted from 1
    state: dict[str, Tensor]  # state dict with our names
    are_classes_named: bool = True  # False: the names are not known, and `class_names` are "class 0", "class 1", ...

    def checkpoint(self) -> Checkpoint:
        """The detector as an untrained checkpoint, at step 0, with all other keys of the config at their defaults."""
        config = Config(
            data=DataConfig(resize=self.resize),
            model=self.model,
            postprocess=self.postprocess,
            train=TrainConfig(steps=1),
        )
        return Checkpoint(config, self.class_names, self.category_ids, 0, {"model": self.state})


def numbered_names(num_classes: int) -> tuple[str, ...]:
    """Names of classes whose real names are not known: "class 0", "class 1", ..."""
    return tuple(f"class {label}" for label in range(num_classes))
