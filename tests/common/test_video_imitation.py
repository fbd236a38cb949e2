"""What the algorithms share beyond their two stages, which ``tests/bcvlr`` covers."""

import platform
import subprocess
import sys

import pytest
import torch as th
from torch import nn

from sb3_bcvlr.common.video_imitation import keep_freed_memory, optimize

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
FAULTS = """
import resource
import torch as th
from sb3_bcvlr.common.video_imitation import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
for step in range(20):
    if step == 10:
        start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    th.zeros(2**26, dtype=th.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
"""


def page_faults(keep: bool) -> int:
    """Of ten tensors of 64 MiB, made and freed in a process of its own."""
    done = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@glibc
def test_freed_memory_is_used_again_instead_of_being_cleared_by_the_kernel():
    assert page_faults(keep=True) < page_faults(keep=False) / 10


def test_the_users_own_setting_of_malloc_is_left_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")
    assert not keep_freed_memory()


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert not keep_freed_memory()


def test_optimize_clips_the_gradient_over_all_parameters_together():
    first, second = nn.Parameter(th.zeros(2)), nn.Parameter(th.zeros(()))
    optimize(th.optim.SGD([first, second], lr=1.0), 300 * first[0] + 400 * second, max_grad_norm=1.0)
    assert first.tolist() == pytest.approx([-0.6, 0.0], rel=1e-4)
    assert second.item() == pytest.approx(-0.8, rel=1e-4)
