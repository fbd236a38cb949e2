import contextlib
import os

import pytest
import torch as th

if not th.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # of kernels that are defined from here on
with contextlib.suppress(ImportError):
    import triton  # noqa: F401  before OSMesa, after which its LLVM crashes

th.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def cache_folder(tmp_path_factory):
    """Decoded videos stay out of the user's cache."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["XDG_CACHE_HOME"]
    if before is not None:
        os.environ["XDG_CACHE_HOME"] = before
