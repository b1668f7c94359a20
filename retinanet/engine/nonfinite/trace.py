"""Where in a network a value that is not finite comes out first."""

from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class FirstNonFinite(TorchDispatchMode):
    """A context manager that looks at the result of every operation inside it, also of backward. Slow: it reads all.

    Operations, not modules: much of the network calls no module. An operation belongs to the module whose weights it
    uses, or comes after it. Weights are known by their memory, also after a cast or after a norm was folded into them.

    Attributes:
        found: a description of the first such result, by the way that was named to `on`.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.found: dict[str, str] = {}
        self._way = ""
        self._last = ""
        self._modules: dict[int, str] = {}  # names by the address of a weight
        self._kept: list[Tensor] = []  # made of weights alone; kept, so that no address comes twice
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._modules[_address(tensor)] = name.rpartition(".")[0] or name

    def on(self, way: str) -> "FirstNonFinite":
        """What follows is this way through the network."""
        self._way, self._last = way, ""
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        names = [self._modules.get(_address(tensor)) for tensor in inputs]
        result = func(*args, **(kwargs or {}))
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.numel() > 0]
        name = next((name for name in names if name is not None), None)
        if name is not None and None not in names:
            for output in outputs:
                self._modules.setdefault(_address(output), name)
                self._kept.append(output)
        if self._way not in self.found and "empty" not in func._schema.name:  # which holds what was there before
            bad = [output for output in outputs if output.is_floating_point() and not output.isfinite().all()]
            if bad:
                place = name or (f"after {self._last}" if self._last else "before any weight")
                self.found[self._way] = f"{place} ({func._schema.name}, result {tuple(bad[0].shape)})"
        self._last = name or self._last
        return result


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
