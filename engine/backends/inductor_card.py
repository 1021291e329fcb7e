"""The memory of a card and the way there, as the weights of Inductor's engines need them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from stt2v.engine.backends.inductor_ahead import ALONE
from stt2v.engine.errors import UsageError
from stt2v.engine.size import in_words

BEFORE, LATER, SLACK = 512 << 20, 512 << 20, 256 << 20
"""Bytes of a card beside weights and activations: what CUDA takes when it begins; what libraries and kernels take while
engines run; values that go from engine to engine, and rounding."""
OUTSIDE = BEFORE + LATER + SLACK


def inside(vram: int) -> int:
    """What is left of `vram` bytes of a card for weights and activations. Raises UsageError where nothing is."""
    if vram <= OUTSIDE:
        raise UsageError(f"--vram is {in_words(vram)}, expected more than the {in_words(OUTSIDE)} of CUDA itself")
    return vram - OUTSIDE


class Card(Protocol):
    """The memory of a card and the way there, in PyTorch's tensors of bytes."""

    def empty(self, nbytes: int) -> Any:
        """Memory of the card."""
        ...

    def pinned(self, nbytes: int) -> Any:
        """Memory of the host that the card reads by itself."""
        ...

    def copying(self) -> AbstractContextManager[object]:
        """Copies that are begun in the block go beside the work of engines; the block ends when they are done."""
        ...

    def mark(self) -> Any:
        """A mark behind the copies so far; its `synchronize` waits for them."""
        ...

    def synchronize(self) -> None:
        """Wait for the engines."""
        ...

    def free(self) -> int:
        """Bytes that nobody uses."""
        ...

    def reserved(self) -> int:
        """Bytes that cannot be used for anything else now."""
        ...

    def pool(self) -> Any:
        """Memory that recordings share: what one leaves free serves the next. It ends with the last of them."""
        ...

    def record(self, function: Callable[[], Sequence[Any]], pool: Any) -> tuple[Callable[[], None], Sequence[Any]]:
        """What computes `function` anew each time it is called, and the tensors that it writes the results to."""
        ...


class CudaCard:
    """The first card, by PyTorch's allocator."""

    def __init__(self) -> None:
        import torch

        self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def empty(self, nbytes: int) -> Any:
        """See `Card`."""
        import torch

        return torch.empty(nbytes, dtype=torch.uint8, device="cuda")

    def pinned(self, nbytes: int) -> Any:
        """See `Card`."""
        import torch

        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    @contextmanager
    def copying(self) -> Iterator[None]:
        """See `Card`. What is allocated inside is never memory that an engine may still use: streams share none."""
        import torch

        with torch.cuda.stream(self._stream):
            yield
        self._stream.synchronize()

    def mark(self) -> Any:
        """See `Card`."""
        return self._stream.record_event()

    def synchronize(self) -> None:
        """See `Card`."""
        import torch

        torch.cuda.current_stream().synchronize()

    def free(self) -> int:
        """See `Card`. What PyTorch keeps for itself is as good as free."""
        import torch

        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0]) + kept

    def reserved(self) -> int:
        """See `Card`."""
        import torch

        torch.cuda.empty_cache()
        return int(torch.cuda.memory_reserved())

    def pool(self) -> Any:
        """See `Card`."""
        import torch

        return torch.cuda.graph_pool_handle()

    def record(self, function: Callable[[], Sequence[Any]], pool: Any) -> tuple[Callable[[], None], Sequence[Any]]:
        """See `Card`. Other threads go on copying meanwhile, but load no kernels."""
        import torch

        graph = torch.cuda.CUDAGraph()
        with ALONE, torch.cuda.graph(graph, pool, capture_error_mode="thread_local"):
            outputs = function()
        return graph.replay, outputs
