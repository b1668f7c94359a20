"""Find the first operation in a network that produces a non-finite result."""

from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class FirstNonFinite(TorchDispatchMode):
    """Context manager that checks the result of every operation in its body, including the backward pass.

    It is slow, because it reads every value. It observes operations rather than modules, because much of the network is
    not computed by modules. An operation is attributed to the module that owns the weights it uses; an operation
    without weights is attributed to the most recent such module. Weights are recognised by their memory address, even
    after a cast, or after a norm has been folded into them.

    Attributes:
        first: description of the first non-finite result in each pass, by the name passed to `on`.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.first: dict[str, str] = {}
        self._pass = ""
        self._last = ""
        self._modules: dict[int, str] = {}  # module names by the memory address of a weight
        self._kept: list[Tensor] = []  # tensors computed only from weights, kept alive so their addresses stay unique
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._modules[_address(tensor)] = name.rpartition(".")[0] or name

    def on(self, pass_name: str) -> "FirstNonFinite":
        """Set the name of the pass that the following operations belong to, such as "forward"."""
        self._pass, self._last = pass_name, ""
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
        if self._pass not in self.first and "empty" not in func._schema.name:  # `empty` returns uninitialised memory
            bad = [output for output in outputs if output.is_floating_point() and not output.isfinite().all()]
            if bad:
                place = name or (f"after {self._last}" if self._last else "before any weight")
                self.first[self._pass] = f"{place} ({func._schema.name}, result {tuple(bad[0].shape)})"
        self._last = name or self._last
        return result


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
