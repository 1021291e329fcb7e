"""What goes between the processes of a group, by torch.distributed: NCCL between cards, gloo for everything else."""

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import numpy as np

from stt2v.engine.backends.base import Closing, Value, Values
from stt2v.engine.backends.inductor_values import TorchValue
from stt2v.engine.errors import BackendError, UsageError

HOST = "127.0.0.1"
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
PATIENCE = timedelta(minutes=30)  # with a process that is alive and says nothing: an engine may compile its kernels

Head = Mapping[str, Any]


def card_count() -> int:
    """How many cards PyTorch sees. Raises BackendError where it is not installed."""
    return int(_torch().cuda.device_count())


def check_cards(processes: int, target: str | None) -> None:
    """Raise UsageError for more processes than there are cards, where the engines need cards (None: not known).

    Raises BackendError, whatever they need, where PyTorch is not installed, through which processes speak.
    """
    there = card_count()
    if target not in ("cpu", None) and processes > there:
        raise UsageError(f"number of GPUs is {processes}, PyTorch sees {there}; take fewer")


class Meeting(Closing):
    """Where the processes of a group find each other: a store in the first of them, on this machine only."""

    def __init__(self, port: int | None = None) -> None:
        distributed = _torch().distributed
        self.store = distributed.TCPStore(HOST, port or 0, is_master=port is None, wait_for_workers=False)

    @property
    def port(self) -> int:
        return int(self.store.port)

    def arrive(self, rank: int) -> None:
        """Say that process `rank` is ready for `Wire`."""
        self.store.set(f"ready-{rank}", "yes")

    def has(self, rank: int) -> bool:
        """Whether process `rank` is ready."""
        return bool(self.store.check([f"ready-{rank}"]))

    def close(self) -> None:
        self.store = None


class Wire(Closing):
    """The way from this process to all others of its group; made once all have arrived.

    cards: whether tensors lie on cards, one for each process, and go from card to card. That of this process is the
    first that it sees; NCCL is told so at once, and connects all of them here and not two by two when they first speak.
    """

    def __init__(self, meeting: Meeting, rank: int, size: int, cards: bool) -> None:
        os.environ.update(LOOPBACK)
        self._torch = _torch()
        self._distributed = self._torch.distributed
        self._device = "cuda" if cards else "cpu"
        if self._distributed.is_initialized():
            raise UsageError("torch.distributed is at work in this process; open one session of several GPUs at a time")
        group = {"store": meeting.store, "rank": rank, "world_size": size, "timeout": PATIENCE}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's about its own
            if cards:
                own = self._torch.device("cuda", 0)
                self._torch.cuda.set_device(own)
                self._distributed.init_process_group("cpu:gloo,cuda:nccl", device_id=own, **group)
            else:
                self._distributed.init_process_group("gloo", **group)

    def send(self, to: int, head: Head, values: Values) -> None:
        """Send a head, which JSON can hold, and values. Raises RuntimeError when the other has ended."""
        tensors = {name: self._tensor(value) for name, value in values.items()}
        rows = [[name, str(tensor.dtype).removeprefix("torch."), [*tensor.shape]] for name, tensor in tensors.items()]
        data = bytearray(json.dumps({**head, "tensors": rows}).encode())
        self._distributed.send(self._torch.tensor([len(data)]), to)
        self._distributed.send(self._torch.frombuffer(data, dtype=self._torch.uint8), to)
        self._move(self._distributed.isend, tensors.values(), to)

    def head(self, sender: int) -> Head:
        """The head of what `send` sends, as soon as it comes. Raises RuntimeError when the other has ended."""
        length = self._torch.empty(1, dtype=self._torch.int64)
        self._distributed.recv(length, sender)
        data = self._torch.empty(int(length), dtype=self._torch.uint8)
        self._distributed.recv(data, sender)
        head: Head = json.loads(data.numpy().tobytes())
        return head

    def values(self, sender: int, head: Head) -> dict[str, Value]:
        """The values that follow that head. Raises RuntimeError when the other has ended."""
        tensors = {name: self._empty(dtype, shape) for name, dtype, shape in head["tensors"]}
        self._move(self._distributed.irecv, tensors.values(), sender)
        return {name: self._value(tensor) for name, tensor in tensors.items()}

    def settle(self) -> None:
        """Wait until the card has done all it was told: what it fails at is raised here."""
        if self._device == "cuda":
            self._torch.cuda.synchronize()

    def close(self) -> None:
        self._distributed.destroy_process_group()

    def abandon(self) -> None:
        """Close it where others are gone, for whom `close` may wait."""
        self._distributed.distributed_c10d._abort_process_group()  # the only way that PyTorch has

    def _move(self, operation: Any, tensors: Iterable[Any], other: int) -> None:
        """Send all of these, or receive them: one operation of NCCL."""
        whole = [self._distributed.P2POp(operation, tensor, other) for tensor in tensors if tensor.numel()]
        for work in self._distributed.batch_isend_irecv(whole) if whole else ():
            work.wait()

    def _tensor(self, value: Value) -> Any:
        tensor = value.tensor if isinstance(value, TorchValue) else self._torch.tensor(np.asarray(value))
        return tensor.to(self._device).contiguous()

    def _empty(self, dtype: str, shape: list[int]) -> Any:
        return self._torch.empty(shape, dtype=getattr(self._torch, dtype), device=self._device)

    def _value(self, tensor: Any) -> Value:
        if self._device == "cuda":
            return TorchValue(tensor)
        array: Value = tensor.numpy()
        return array


def _torch() -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise BackendError(
            "several processes speak through PyTorch, which is not installed; pip install 'stt2v[gpus]'"
        ) from error
    if not torch.distributed.is_available():
        raise BackendError(f"PyTorch {torch.__version__} is built without torch.distributed; install another")
    return torch
