"""Importing the package is quiet, loads no simulator and gives the public names."""

import subprocess
import sys

import pytest

import sb3_bcvlr
import sb3_bcvlr.envs

SIMULATORS = {"procgen", "gym3", "dm_control", "mujoco", "metaworld"}
CRASHES_BESIDE_OSMESA = {"triton"}


def test_importing_prints_nothing_and_loads_no_simulator():
    code = f"""if True:
        import sys
        import sb3_bcvlr
        from sb3_bcvlr.envs import ForagingEnv
        loaded = {SIMULATORS | CRASHES_BESIDE_OSMESA} & set(sys.modules)
        assert not loaded, loaded
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_public_names():
    assert set(sb3_bcvlr.__all__) == {"BCVLR", "VideoDataset", "__version__", "hyperparams"}
    assert all(hasattr(sb3_bcvlr, name) for name in sb3_bcvlr.__all__)


def test_environments_are_found_when_asked_for():
    assert {name: getattr(sb3_bcvlr.envs, name).__name__ for name in sb3_bcvlr.envs.__all__} == {
        name: name for name in sb3_bcvlr.envs.__all__
    }
    assert {"ForagingEnv", "make_dmcontrol", "make_metaworld", "make_procgen"} <= set(sb3_bcvlr.envs.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Tetris'"):
        _ = sb3_bcvlr.envs.Tetris
