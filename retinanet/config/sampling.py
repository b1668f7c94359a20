"""`data.sampling`: how often each training image is used."""

from typing import Annotated, Literal

from pydantic import Field

from retinanet.config.base import StrictModel


class AllSampling(StrictModel):
    """Use each image once per epoch."""

    type: Literal["all"] = "all"


class RepeatFactorSampling(StrictModel):
    """Repeat images of rare classes within an epoch (Gupta et al. 2019).

    An image is used max(1, sqrt(`threshold` / f)) times per epoch on average, where f is the share of images that
    contain the rarest of its classes. The length of an epoch is the sum of these numbers, rounded up to whole batches.
    """

    type: Literal["repeat_factor"] = "repeat_factor"
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.001
    """Classes that occur in a smaller share of the images than this are repeated."""


class ClassAwareSampling(StrictModel):
    """Use each class equally often, and the images of a class equally often.

    Images without objects keep their share. An epoch has as many images as the dataset, rounded up to whole batches; it
    may omit some images and repeat others.
    """

    type: Literal["class_aware"] = "class_aware"


Sampling = Annotated[AllSampling | RepeatFactorSampling | ClassAwareSampling, Field(discriminator="type")]
