"""Which CPUs gain from bfloat16; fast paths of a GPU against the plain ones, skipped where there is no GPU."""

import contextlib
import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from toys import needs_gpu

from sb3_bcvlr.common.devices import (
    GraphedStep,
    Sender,
    free_memory,
    gather_rows,
    has_room,
    lacks_bfloat16,
    machine_memory,
    multiplies_bfloat16,
    to_device,
)
from sb3_bcvlr.common.networks import Encoder, ResidualBlock
from sb3_bcvlr.common.window_replay_buffer import WindowReplayBuffer

CPU = th.device("cpu")


def test_a_machine_tells_its_memory_or_counts_as_endless(monkeypatch):
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 10}.__getitem__, raising=False)
    assert machine_memory() == 40_960
    monkeypatch.delattr(os, "sysconf")
    assert machine_memory() == math.inf


@pytest.mark.parametrize(
    ("row_shape", "dtype"),
    [((3, 4, 4), th.uint8), ((1, 3, 3), th.uint8), ((4, 4, 3), th.bfloat16), ((3, 1, 1), th.bfloat16)],  # 48, 9, 96, 6 bytes
)
def test_gathered_rows_are_those_of_the_indices(row_shape, dtype):
    rows = th.arange(5 * np.prod(row_shape)).to(dtype).view(5, *row_shape)
    indices = np.array([[4, 0, 0], [1, 2, 4]])
    gathered = gather_rows(rows, indices)
    assert gathered.dtype == dtype and gathered.shape == (2, 3, *row_shape)
    assert (gathered == rows[indices]).all()


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True, "amx_bf16": False}, False), ({}, False)],
)
def test_a_cpu_multiplies_bfloat16_if_it_says_so(monkeypatch, capabilities, expected):
    monkeypatch.setattr(th.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert multiplies_bfloat16(CPU) is expected
    assert not multiplies_bfloat16(th.device("cuda"))


@pytest.mark.parametrize(("capability", "lacks"), [((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_a_gpu_before_ampere_has_no_bfloat16(monkeypatch, capability, lacks):
    monkeypatch.setattr(th.cuda, "get_device_capability", lambda device: capability)
    assert lacks_bfloat16(th.device("cuda")) is lacks
    assert not lacks_bfloat16(CPU)


@pytest.mark.parametrize(("free", "fraction", "expected"), [(70, 1.0, 70), (70, 0.5, 40), (30, 0.5, 30)])
def test_free_memory_is_what_the_gpu_and_the_fraction_of_this_process_leave(monkeypatch, free, fraction, expected):
    def answer(value):
        def function(device):
            assert device is None or isinstance(device, int)  # PyTorch takes no device without a number here
            return value

        return function

    monkeypatch.setattr(th.cuda, "mem_get_info", answer((free, 100)))
    monkeypatch.setattr(th.cuda, "get_per_process_memory_fraction", answer(fraction))
    monkeypatch.setattr(th.cuda, "memory_allocated", answer(10))
    assert free_memory(th.device("cuda")) == free_memory(th.device("cuda:1")) == expected


@pytest.mark.parametrize(("n_bytes", "fit"), [(35, True), (36, False)])
def test_frames_fit_in_half_of_the_free_memory(monkeypatch, n_bytes, fit):
    monkeypatch.setattr("sb3_bcvlr.common.devices.free_memory", lambda device: 70)
    frames = np.zeros(n_bytes, np.uint8)
    assert has_room(th.device("cuda"), frames) is has_room(th.device("cuda"), th.from_numpy(frames)) is fit


def test_a_pytorch_that_knows_no_capabilities_is_taken_to_have_none(monkeypatch):
    monkeypatch.delattr(th.cpu, "get_capabilities", raising=False)
    assert not multiplies_bfloat16(CPU)


def train(device: str, n_steps: int, graphed: bool, ask_host: bool = False) -> tuple[list[float], th.Tensor]:
    """Losses and weights of a regression that changes its inputs at each step."""
    device = th.device(device)
    inputs = th.arange(3.0 * n_steps, device=device).view(n_steps, 3).cos()
    weights = th.ones(3, device=device, requires_grad=True)
    optimizer = th.optim.Adam([weights], lr=0.1, fused=True, capturable=True)

    def step(x: th.Tensor) -> tuple[th.Tensor]:
        optimizer.zero_grad(set_to_none=True)
        loss = ((weights * x).sum() - 1).square()
        if ask_host:
            loss.item()
        loss.backward()
        optimizer.step()
        return (loss.detach(),)

    call = GraphedStep(step, device) if graphed else step
    losses = [call(x)[0] for x in inputs]
    return [loss.item() for loss in losses], weights.detach().cpu()


def test_on_a_cpu_a_step_is_called_as_it_is():
    assert train("cpu", 10, graphed=True)[0] == train("cpu", 10, graphed=False)[0]


def test_values_keep_type_and_shape_on_their_way():
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    tensor = to_device(values, CPU)
    assert tensor.dtype == th.uint8 and tensor.tolist() == values.tolist()


class FakeStream:
    """Tells in ``calls`` what is asked of it."""

    def __init__(self, calls):
        self.calls = calls

    def wait_stream(self, stream):
        self.calls.append("wait for the copy")

    def record_event(self):
        number = self.calls.count("wait for the copy")
        return SimpleNamespace(synchronize=lambda: self.calls.append(f"{number} is done"))


def test_at_most_two_batches_wait_for_a_gpu(monkeypatch):
    calls = []
    monkeypatch.setattr(th.cuda, "Stream", lambda device: FakeStream(calls))
    monkeypatch.setattr(th.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(th.cuda, "current_stream", lambda device: FakeStream(calls))
    monkeypatch.setattr(th.Tensor, "record_stream", lambda batch, stream: calls.append("kept"))
    sender = Sender(CPU)
    for number in range(4):
        assert (sender.send(th.full((2,), number)) == number).all()
    sent = ["wait for the copy", "kept"]
    assert calls == [*sent, *sent, "1 is done", *sent, "2 is done", *sent]


@needs_gpu
def test_a_replayed_step_trains_as_the_step_itself():
    losses, weights = train("cuda", 10, graphed=True)
    expected_losses, expected_weights = train("cpu", 10, graphed=False)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4, atol=1e-5)
    th.testing.assert_close(weights, expected_weights, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(th.cuda.device_count() < 2, reason="no second GPU")
def test_a_step_is_replayed_on_a_gpu_that_is_not_the_current_one():
    np.testing.assert_allclose(train("cuda:1", 10, graphed=True)[0], train("cpu", 10, graphed=False)[0], rtol=1e-4, atol=1e-5)


@needs_gpu
def test_a_step_that_cannot_be_recorded_is_called_with_a_warning():
    with pytest.warns(UserWarning, match="No CUDA graph of .*step"):
        losses, _ = train("cuda", 10, graphed=True, ask_host=True)
    np.testing.assert_allclose(losses, train("cpu", 10, graphed=False)[0], rtol=1e-4, atol=1e-5)


@needs_gpu
def test_the_encoder_folds_pixels_into_channels():
    encoder = Encoder((3, 8, 12), [4], [1], 2)
    images = th.rand(2, 3, 8, 12)
    expected = encoder(images)
    with th.backends.cudnn.flags(enabled=True, allow_tf32=False):
        folded = encoder.cuda()(images.cuda())
    th.testing.assert_close(folded.cpu(), expected, rtol=1e-4, atol=1e-4)


@needs_gpu
def test_a_narrow_residual_block_folds_pixels_into_channels():
    block, images = ResidualBlock(24, 12), th.rand(2, 24, 8, 8)
    expected = block(images)
    with th.backends.cudnn.flags(enabled=True, allow_tf32=False):
        folded = block.cuda()(images.cuda())
    th.testing.assert_close(folded.cpu(), expected, rtol=1e-4, atol=1e-4)


@needs_gpu
@pytest.mark.parametrize("n_stack", [1, 3])
def test_the_replay_gives_the_same_windows_from_the_memory_of_a_gpu(n_stack):
    shape = (3 * n_stack, 4, 4)
    buffers = [
        WindowReplayBuffer(
            60, spaces.Box(0, 255, shape, np.uint8), spaces.Discrete(3), device, n_envs=2, n_stack=n_stack, seed=0
        )
        for device in ("cpu", "cuda")
    ]
    rng = np.random.default_rng(0)
    for _ in range(3):  # the last time the buffer is full, and overwritten
        for _ in range(15):
            frames = rng.integers(256, size=(2, 2, 3, 4, 4), dtype=np.uint8)
            now, then = (np.tile(frame, (1, n_stack, 1, 1)) for frame in frames)
            actions = rng.integers(3, size=2)
            for buffer in buffers:
                buffer.add(now, then, actions, np.zeros(2), np.ones(2, bool), [{}, {}])
        for buffer in buffers:
            buffer.ends[:] = False
            buffer._windows = None
        on_cpu, on_gpu = (buffer.sample(40) for buffer in buffers)
        assert on_gpu.frames.is_cuda
        assert th.equal(on_gpu.frames.cpu(), on_cpu.frames) and th.equal(on_gpu.actions.cpu(), on_cpu.actions)
