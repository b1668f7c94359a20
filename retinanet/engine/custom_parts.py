"""Parts of a run that users pass in Python: datasets, the model and the loss."""

from typing import NamedTuple, cast

from torch import nn

from retinanet.config import Config, CustomConfig
from retinanet.config.custom import check_part, part_name
from retinanet.errors import InputError
from retinanet.formats.custom import CustomDataset
from retinanet.formats.dataset import Dataset
from retinanet.losses.class_loss import ClassLoss
from retinanet.losses.custom import is_class_loss
from retinanet.losses.detection import Criterion
from retinanet.model.detector import Detector, model_name

Loss = ClassLoss | Criterion
AnyDataset = CustomDataset | Dataset


class CustomParts(NamedTuple):
    """The parts that were passed; None for a part that the config defines."""

    dataset: AnyDataset | None = None
    val_dataset: AnyDataset | None = None
    model: Detector | None = None
    loss: Loss | None = None

    def names(self) -> CustomConfig:
        """The names of the parts, for the config."""
        loss = None if self.loss is None else part_name(self.loss)
        of_classes = is_class_loss(self.loss)
        return CustomConfig(
            model=None if self.model is None else model_name(self.model),
            class_loss=loss if of_classes else None,
            loss=None if of_classes else loss,
            train_data=None if self.dataset is None else part_name(self.dataset),
            val_data=None if self.val_dataset is None else part_name(self.val_dataset),
        )

    def recorded_in(self, cfg: Config) -> Config:
        """The config of a run with these parts: it has their names, and lacks the sections that they replace.

        Raises:
            InputError: the config is that of a run with other parts, or a part is not of the right type.
        """
        if self.model is not None and not isinstance(self.model, nn.Module):
            raise InputError(f"model: found {self.model!r}, expected an object of a subclass of torch.nn.Module")
        names = self.names()
        for key, recorded in cfg.custom.model_dump().items():
            argument = {"class_loss": "loss", "train_data": "dataset", "val_data": "val_dataset"}.get(key, key)
            if recorded is not None:
                how = f"retinanet.train(..., {argument}=...)"
                check_part(key, recorded, getattr(names, key), source="the config", how=how)
        loss, data = cfg.loss, cfg.data
        if names.loss:
            loss = type(loss)()
        elif names.class_loss:
            loss = loss.model_copy(update={"classification": type(loss)().classification})
        replaced = {"train": names.train_data, "val": names.val_data}
        data = data.model_copy(update={part: () for part, name in replaced.items() if name})
        model = cfg.model
        if names.model:
            model = model.of_images.model_copy(update={"num_classes": model.num_classes})
        return cfg.model_copy(update={"custom": names, "loss": loss, "data": data, "model": model})


NO_PARTS = CustomParts()


def as_detector(model: nn.Module | None) -> Detector | None:
    """Return the same model, typed as a `Detector`; `has_background_logit` checks that it has these members."""
    return cast(Detector | None, model)
