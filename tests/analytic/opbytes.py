"""Counts the bytes of the operators that PyTorch really dispatches: the oracle of `Cost.op_bytes`.

Every operator counts the bytes of its tensor operands and results, and that of views and allocations is nothing.
Where an operator touches only the part of an operand that indices choose, that part counts (`weight[ids]` reads what
it returns; `index_copy_` writes the rows it is given), and an expanded operand counts the elements it stands on.
Fused attention counts as one operator, whatever it decomposes to on the device of the test.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FREE = {
    "_assert_async",
    "_local_scalar_dense",
    "_reshape_alias",
    "_unsafe_view",
    "alias",
    "as_strided",
    "broadcast_tensors",
    "detach",
    "diagonal",
    "empty",
    "empty_like",
    "expand",
    "lift_fresh",
    "new_empty",
    "permute",
    "resize_",
    "select",
    "set_",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "t",
    "transpose",
    "unbind",
    "unfold",
    "unsqueeze",
    "view",
}
READS_ITS_RESULT = {"index", "index_select", "embedding", "gather"}
"""Of their first operand these touch as many elements as they return."""

WRITES_ITS_SOURCE = {"index_copy_": 1, "index_put_": 1, "_index_put_impl_": 1, "index_add_": 2}
"""How often these touch, in their first operand, the elements that the source (the last operand) has: written, or
read and written."""


def nbytes(tensor: torch.Tensor) -> int:
    """Return the bytes of the elements a tensor stands on: a dimension of stride 0 has one."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= 1 if stride == 0 and size > 1 else size
    return elements * tensor.element_size()


def tensors(tree: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of a tree of arguments or results."""
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


class OpBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, adds up operand and result bytes: ``total``, and by operator in ``by_operator``.

    ``hits`` says how many experts the first operand of a grouped product holds that have rows: on the meta device
    there are no indices to count them by.
    """

    def __init__(self, hits: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self.by_operator: dict[str, int] = defaultdict(int)
        self.calls: list[tuple[str, int, list[tuple[int, ...]]]] = []
        self.hits = hits
        self._fused = _FusedAttention(self)
        self._quiet = False

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        self._fused.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._fused.__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[-1]
        if not self._quiet and name not in FREE:
            self.count(name, [*tensors(args), *tensors(kwargs)], list(tensors(result)))
        return result

    def count(self, name: str, operands: list[torch.Tensor], results: list[torch.Tensor]) -> None:
        """Add one operator."""
        size = sum(map(nbytes, operands)) + sum(map(nbytes, results))
        if name in READS_ITS_RESULT:
            size += nbytes(results[0]) - nbytes(operands[0])
        elif name in WRITES_ITS_SOURCE:
            size += WRITES_ITS_SOURCE[name] * nbytes(operands[-1]) - 2 * nbytes(operands[0])
        elif "grouped_mm" in name and self.hits is not None:
            weight = operands[1]
            size += nbytes(weight) * self.hits // weight.shape[0] - nbytes(weight)
        self.total += size
        self.by_operator[name] += size
        self.calls.append((name, size, [tuple(t.shape) for t in (*operands, *results)]))

    def run_quietly(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a function whose inner operators do not count."""
        self._quiet, before = True, self._quiet
        try:
            return function(*args, **kwargs)
        finally:
            self._quiet = before


def _attention_as_on_cuda(function: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
    """Return the result laid out row by row, as the flash and memory-efficient kernels on CUDA do.

    The decomposition on the meta device lays it out head by head, and the model would then copy it.
    """
    return function(*args, **kwargs).transpose(1, 2).contiguous().transpose(1, 2)


class _FusedAttention(TorchFunctionMode):
    """Counts scaled dot product attention as one operator: queries, keys, values, mask and result."""

    def __init__(self, counter: OpBytes) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        result = self.counter.run_quietly(_attention_as_on_cuda, (func, *args), kwargs or {})
        self.counter.count("attention", [*tensors(args), *tensors(kwargs)], [result])
        return result
