"""
What devices are good at: bfloat16 on some CPUs; on GPUs copies that run beside their work, and a gradient step as one launch.
"""

import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable

import numpy as np
import torch as th
from torch.optim.swa_utils import get_ema_multi_avg_fn

N_WARMUP = 3  # steps before the recording: libraries choose their kernels, optimizers make their state


def machine_memory() -> float:
    """Bytes of this machine's memory; infinite where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf


def to_device(values: np.ndarray, device: th.device) -> th.Tensor:
    """A tensor of them on ``device``; to a GPU without waiting for what it is still doing, which needs pinned memory."""
    tensor = th.as_tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def free_memory(device: th.device) -> int:
    """Bytes of a GPU that this process may still take: what is free, within ``torch.cuda.set_per_process_memory_fraction``."""
    # By its number, since not all of these take a device without one
    free, total = th.cuda.mem_get_info(device.index)
    return min(
        free, int(th.cuda.get_per_process_memory_fraction(device.index) * total) - th.cuda.memory_allocated(device.index)
    )


def has_room(device: th.device, frames: np.ndarray | th.Tensor) -> bool:
    """Whether ``frames`` may move to this GPU: they fill at most half of its free memory, the rest is for learning."""
    return frames.nbytes <= free_memory(device) / 2


def gather_rows(rows: th.Tensor, indices: np.ndarray) -> th.Tensor:
    """
    ``rows[indices]``, on their device.

    :param rows: (n, ...), contiguous, such as frames or feature maps
    :param indices: int64, of any shape
    """
    numbers = rows.flatten(1)
    # A GPU takes as long for each number: eight bytes are better than one or two.
    numbers = numbers.view(th.int64) if numbers.shape[1] * numbers.element_size() % 8 == 0 else numbers
    return numbers[to_device(indices, rows.device)].view(rows.dtype).unflatten(-1, rows.shape[1:])


class Sender:
    """
    Copies batches to a GPU while it works on those before.

    The copies have a stream of their own. At most two batches wait for the GPU: Python, which does not, would otherwise fill
    its memory with more of them.
    """

    def __init__(self, device: th.device):
        self._device = device
        self._stream = th.cuda.Stream(device)
        self._sent: deque[th.cuda.Event] = deque(maxlen=2)

    def send(self, batch: th.Tensor) -> th.Tensor:
        """
        :param batch: in pinned memory
        :return: on the GPU, for its current stream
        """
        if len(self._sent) == self._sent.maxlen:
            self._sent[0].synchronize()
        with th.cuda.stream(self._stream):
            sent = batch.to(self._device, non_blocking=True)
        current = th.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        sent.record_stream(current)  # whose use its memory outlasts
        self._sent.append(current.record_event())
        return sent


def multiplies_bfloat16(device: th.device) -> bool:
    """Whether this is a CPU with instructions for products of bfloat16, which older versions of PyTorch do not tell."""
    capabilities = th.cpu.get_capabilities() if device.type == "cpu" and hasattr(th.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def lacks_bfloat16(device: th.device) -> bool:
    """Whether this is a GPU without products of bfloat16: NVIDIA's have them from Ampere on."""
    return device.type == "cuda" and th.cuda.get_device_capability(device) < (8, 0)


def fused_polyak_update(parameters: Iterable[th.Tensor], target_parameters: Iterable[th.Tensor], tau: float) -> None:
    """SB3's ``polyak_update`` in one GPU kernel for all parameters; these are of floating point."""
    get_ema_multi_avg_fn(1 - tau)(list(target_parameters), list(parameters), None)


class GraphedStep:
    """
    Calls ``step``; on a GPU it records the fourth call as a CUDA graph and replays that from then on.

    What a replay repeats are the kernels of the recorded call, on the values that parameters, buffers and inputs have by then.
    So ``step`` must not ask the host for a value, nor depend on anything but tensors that change in place; where a flag or a
    learning rate changes, make a new ``GraphedStep``. Where the recording fails, ``step`` is called as it is, with a warning.

    :param step: called with tensors, returns tensors; each call makes a gradient step
    :param device: where it works
    """

    def __init__(self, step: Callable[..., tuple[th.Tensor, ...]], device: th.device):
        self._step = step
        self._device = device
        self._n_calls_until_recording = N_WARMUP if device.type == "cuda" else -1
        self._stream: th.cuda.Stream | None = None  # one for all: each would keep the memory of a step
        self._graph: th.cuda.CUDAGraph | None = None
        self._inputs: tuple[th.Tensor, ...] = ()
        self._outputs: tuple[th.Tensor, ...] = ()

    def __call__(self, *inputs: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        :param inputs: of the same shapes and types in each call
        :return: what ``step`` returns, in tensors of this call's own
        """
        if self._graph is None and self._n_calls_until_recording == 0:
            self._record(inputs)
        if self._graph is None:
            if self._n_calls_until_recording <= 0:
                return self._step(*inputs)
            self._n_calls_until_recording -= 1
            return self._warm_up(inputs)
        for static, value in zip(self._inputs, inputs, strict=True):
            static.copy_(value, non_blocking=True)
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)

    def _warm_up(self, inputs: tuple[th.Tensor, ...]) -> tuple[th.Tensor, ...]:
        """A step on a stream of its own, since what ran on the default one cannot be recorded."""
        with th.cuda.device(self._device):
            self._stream = self._stream or th.cuda.Stream()
            self._stream.wait_stream(th.cuda.current_stream())
            with th.cuda.stream(self._stream):
                outputs = self._step(*inputs)
            th.cuda.current_stream().wait_stream(self._stream)
            return tuple(output.clone() for output in outputs)

    def _record(self, inputs: tuple[th.Tensor, ...]) -> None:
        self._inputs = tuple(value.clone() for value in inputs)
        graph = th.cuda.CUDAGraph()
        try:
            # The outer stream is the one that is current again afterwards, even where the recording fails on its way out.
            with th.cuda.device(self._device), th.cuda.stream(th.cuda.current_stream(self._device)):
                with th.cuda.graph(graph, stream=self._stream):
                    self._outputs = self._step(*self._inputs)
        except RuntimeError as error:
            self._n_calls_until_recording = -1
            warnings.warn(f"No CUDA graph of {self._step.__qualname__}, which stays slower: {error}", stacklevel=3)
        else:
            self._graph = graph
