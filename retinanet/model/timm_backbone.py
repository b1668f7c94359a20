"""Backbones from timm: any network with feature maps of strides 8, 16 and 32, and 4 for a pyramid with P2."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from retinanet.config.model import TimmNorm
from retinanet.errors import InputError
from retinanet.model.norm import synchronise_norms_
from retinanet.model.pointwise import replace_strided_pointwise_
from retinanet.model.timm_layout import create_network, find_layout
from retinanet.model.timm_weights import load_timm_weights


class TimmBackbone(nn.Module):
    """A timm network that outputs C3, C4 and C5, or C2 to C5; implements `retinanet.model.backbone.Backbone`.

    Parameters on which no output depends are never trained.

    Args:
        name: timm's name for the architecture, without the name of weights, such as "convnext_tiny".
        norm: treatment of the batch norms: "frozen" keeps their statistics, weights and biases, "batch" trains them,
            and "sync" trains them with statistics over the batches of all processes. Other norms are always trained.
        frozen_stages: layers that are never updated: 1 freezes those up to the map of stride 2, 2 those up to stride 4,
            and so on up to 5 for all.
        checkpoint_activations: save only the input of each stage, and recompute the stage in the backward pass.
        out_strides: strides of the output maps, ascending.
        in_channels: number of image channels.

    Raises:
        InputError: timm is missing or has no such network, or the network does not support these settings.
    """

    def __init__(
        self,
        name: str,
        *,
        norm: TimmNorm,
        frozen_stages: int,
        checkpoint_activations: bool = False,
        out_strides: tuple[int, ...] = (8, 16, 32),
        in_channels: int = 3,
    ):
        super().__init__()
        layout = find_layout(name, in_channels)
        if missing := [stride for stride in out_strides if stride not in layout.channels]:
            raise InputError(
                f"model.backbone.name: {name} has no feature map of stride {missing[0]}; its maps have strides "
                f"{', '.join(map(str, layout.channels))}"
            )
        self.name = name
        self.strides = out_strides
        self.out_channels = tuple(layout.channels[stride] for stride in out_strides)
        self.divisor = layout.divisor
        self._channels_last = layout.channels_last
        self._indices = tuple(layout.indices[stride] for stride in out_strides)
        self.network = create_network(name, in_channels=in_channels, out_indices=self._indices, tag=None)
        replace_strided_pointwise_(self.network)
        if norm == "sync":
            synchronise_norms_(self.network)
        if checkpoint_activations:
            self._checkpoint_activations(norm)

        used = frozenset[str]().union(*(layout.reached[stride] for stride in out_strides))
        self._stages = [names & used for names in layout.stages.values() if names & used]
        self._frozen = self._names_of_frozen(frozen_stages, layout.stages)
        for key, parameter in self.network.named_parameters():
            parameter.requires_grad_(key in used and key not in self._frozen)
        self._norms_are_frozen = norm == "frozen"
        if self._norms_are_frozen:
            for module in self._norms():
                module.requires_grad_(False)
        self.train()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the feature maps with the strides in `strides` from normalised images (B, in_channels, H, W).

        Raises:
            InputError: a side of the images is not a multiple of `divisor`.
        """
        height, width = images.shape[-2:]
        if height % self.divisor or width % self.divisor:
            raise InputError(
                f"images are padded to {height}x{width} pixels, but {self.name} needs sides that are multiples of "
                f"{self.divisor}; set data.resize.divisor={self.divisor}"
            )
        features = self.network(images)
        return [feature.permute(0, 3, 1, 2) for feature in features] if self._channels_last else list(features)

    def load_pretrained(self, weights: str) -> None:
        """Load weights by timm's name for them or from a file; see `load_timm_weights`."""
        load_timm_weights(self.network, self.name, weights, out_indices=self._indices)

    def stages(self) -> list[list[nn.Parameter]]:
        """List the parameters of each stage, from the input to the output: a stage ends with a feature map."""
        parameters = dict(self.network.named_parameters())
        return [[value for key, value in parameters.items() if key in names] for names in self._stages]

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Set training or evaluation mode.

        Frozen stages and frozen norms stay in evaluation mode, which also freezes their running statistics.
        """
        super().train(mode)
        # Looked up on every call, because modules may be replaced, such as norms by synchronised ones.
        for module in _modules_within(self.network, self._frozen):
            module.eval()
        if self._norms_are_frozen:
            for module in self._norms():
                module.eval()
        return self

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of the weights: `torch.channels_last` or `torch.contiguous_format`."""
        for weight in self.network.parameters():
            # Filters of one pixel or one channel have the same layout in both formats.
            if weight.ndim == 4 and weight.shape[1] > 1 and weight[0, 0].numel() > 1:
                is_last = weight.is_contiguous(memory_format=torch.channels_last)
                return torch.channels_last if is_last else torch.contiguous_format
        return torch.contiguous_format

    def _norms(self) -> list[nn.Module]:
        return [module for module in self.network.modules() if isinstance(module, _BatchNorm)]

    def _checkpoint_activations(self, norm: TimmNorm) -> None:
        if norm != "frozen" and self._norms():
            raise InputError(
                f"model.backbone.checkpoint_activations is true, but model.backbone.norm is {norm}: recomputing "
                f"{self.name} would update the statistics of its batch norms twice; set norm to frozen, or "
                "checkpoint_activations to false"
            )
        set_checkpointing = getattr(self.network, "set_grad_checkpointing", None)
        if set_checkpointing is None:
            raise InputError(
                f"model.backbone.checkpoint_activations is true, but timm does not support it for {self.name}; "
                "set it to false"
            )
        set_checkpointing(True)

    def _names_of_frozen(self, frozen_stages: int, stages: dict[int, frozenset[str]]) -> frozenset[str]:
        last = 2**frozen_stages
        if frozen_stages and last not in stages:
            possible = [stride.bit_length() - 1 for stride in stages if stride > 1]
            raise InputError(
                f"model.backbone.frozen_stages is {frozen_stages}, but {self.name} has no feature map of stride {last} "
                f"at which to stop; set one of 0, {', '.join(map(str, possible))}"
            )
        return frozenset[str]().union(*(names for stride, names in stages.items() if frozen_stages and stride <= last))


def _modules_within(network: nn.Module, names: frozenset[str]) -> Iterator[nn.Module]:
    """Yield the modules whose parameters, at least one, are all in `names`."""
    for prefix, module in network.named_modules():
        own = [f"{prefix}.{key}" if prefix else key for key, _ in module.named_parameters()]
        if own and names.issuperset(own):
            yield module
