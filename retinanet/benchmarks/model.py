"""Cost of a network: parameters, FLOPs, and activations kept for the backward pass, computed without running it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from retinanet.benchmarks.networks import bare_network, torchvision_network
from retinanet.benchmarks.report import MIB, precision_name, table
from retinanet.benchmarks.settings import Settings, SuiteResult, network_size
from retinanet.runtime.device import autocast

SIZE, BATCH, CLASSES = (800, 1344), 1, 90
OURS, THEIRS = "ours", "torchvision"


class NetworkCost(NamedTuple):
    """Parameters, arithmetic and memory of a network."""

    parameters: int
    forward_flops: int  # a multiply-add counts as two operations
    step_flops: int  # forward and backward
    saved_bytes: int  # tensors kept by autograd, excluding weights


def run(settings: Settings) -> SuiteResult:
    size = network_size(settings, SIZE)
    batch, classes = settings.batch or BATCH, settings.classes or CLASSES
    # Fake tensors: nothing is computed, but autocast selects the same dtypes as in a real run.
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    ours = bare_network(settings.backbone, classes).to(settings.device).train()
    theirs = torchvision_network(ours, settings.backbone, size, skip_resize=True).to(settings.device).train()
    for network in (ours, theirs):
        drop_values(network, mode)
    with mode:
        images = torch.zeros(batch, 3, *size, dtype=torch.uint8, device=settings.device)
        image_sizes = torch.zeros(batch, 2, dtype=torch.int64, device=settings.device)
        pixels = torch.zeros(batch, 3, *size, device=settings.device)

        def our_outputs() -> list[Tensor]:
            outputs = ours(images, image_sizes)
            return [*outputs.class_logits, *outputs.box_deltas]

        def their_outputs() -> list[Tensor]:
            return list(theirs.head(list(theirs.backbone(pixels).values())).values())

        costs = {OURS: measure_cost(ours, our_outputs, settings), THEIRS: measure_cost(theirs, their_outputs, settings)}
    rows = [
        [
            name,
            f"{cost.parameters / 1e6:.2f}",
            f"{cost.forward_flops / 1e9:.1f}",
            f"{cost.step_flops / 1e9:.1f}",
            f"{cost.saved_bytes / MIB:.1f}",
        ]
        for name, cost in costs.items()
    ]
    title = (
        f"model: {settings.backbone}, {batch} x {size[0]}x{size[1]}, {classes} classes, "
        f"{precision_name(settings.dtype)}"
    )
    columns = ["", "M parameters", "GFLOP forward", "GFLOP step", "MiB saved"]
    details = {
        "size": size,
        "batch": batch,
        "classes": classes,
        "backbone": settings.backbone,
        "networks": {name: cost._asdict() for name, cost in costs.items()},
    }
    ratios = {"vs_torchvision": costs[THEIRS].saved_bytes / costs[OURS].saved_bytes}
    return SuiteResult(ratios, [table(title, columns, rows)], details)


def drop_values(network: nn.Module, mode: FakeTensorMode) -> None:
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module._parameters[name] = nn.Parameter(mode.from_tensor(parameter.detach()))
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = mode.from_tensor(buffer)


def measure_cost(network: nn.Module, outputs: Callable[[], list[Tensor]], settings: Settings) -> NetworkCost:
    """Measure the cost of a network with all parameters trained; `outputs` runs its forward pass."""

    def in_autocast() -> list[Tensor]:
        with autocast(settings.device, settings.dtype):
            return outputs()

    with FlopCounterMode(display=False) as forward, torch.no_grad():
        in_autocast()
    with FlopCounterMode(display=False) as step:
        sum(output.float().sum() for output in in_autocast()).backward()
    network.zero_grad(set_to_none=True)
    return NetworkCost(
        sum(parameter.numel() for parameter in network.parameters()),
        forward.get_total_flops(),
        step.get_total_flops(),
        saved_bytes(network, in_autocast),
    )


def saved_bytes(network: nn.Module, outputs: Callable[[], list[Tensor]]) -> int:
    """Bytes in the distinct storages that autograd keeps after a forward pass, excluding weights and buffers."""
    owned = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # references, which prevent addresses from being reused

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in owned:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs()
    return sum(storage.nbytes() for storage in kept.values())
