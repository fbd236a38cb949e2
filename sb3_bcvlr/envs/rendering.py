"""
Pictures of MuJoCo environments: the OpenGL back end, a fast renderer, and wrappers that make pixels the observation.

Nothing here imports MuJoCo before it is asked to: ``MUJOCO_GL`` counts only if it is set before that.
"""

import atexit
import ctypes.util
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import RescaleAction

from sb3_bcvlr.common.checks import check_whole
from sb3_bcvlr.envs.frame_stack import stack_frames

# The shared library that each back end needs, and the packages of Debian and Ubuntu that bring it.
BACKENDS = {
    "osmesa": ("OSMesa", "apt-get install libosmesa6 (renders on the CPU)"),
    "egl": ("EGL", "apt-get install libegl1 libgl1-mesa-dri (renders on a GPU, or on the CPU if there is none)"),
    "glfw": ("glfw", "apt-get install libglfw3, and a display: DISPLAY must be set"),
}
UNBOUNDED = 1e6  # what stands for "no bounds": such actions (of lqr) are taken as they are, not as a share of infinity
_renderers: weakref.WeakSet[Any] = weakref.WeakSet()  # every open ``mujoco.Renderer``


def choose_backend() -> str:
    """
    Set ``MUJOCO_GL`` unless the user has: EGL on a machine with a GPU, OSMesa elsewhere, of those that are installed.

    :return: the back end that MuJoCo will use, or "" to leave the choice to it
    """
    # Where dm_control itself makes a context (quadruped_escape), its render thread would complain at exit.
    os.environ.setdefault("DISABLE_RENDER_THREAD_OFFLOADING", "1")
    if sys.platform == "linux" and not os.environ.get("MUJOCO_GL"):
        wanted = ["egl", "osmesa"] if has_gpu() else ["osmesa", "egl"]  # without a GPU, OSMesa is the faster of the two
        found = [backend for backend in wanted if ctypes.util.find_library(BACKENDS[backend][0])]
        if os.environ.get("PYOPENGL_PLATFORM") in wanted:  # another package has chosen; a process has one platform
            os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"]
        elif found or not os.environ.get("DISPLAY"):
            os.environ["MUJOCO_GL"] = (found or wanted)[0]
    return os.environ.get("MUJOCO_GL", "")


def _no_backend(error: Exception) -> ImportError:
    backend = os.environ.get("MUJOCO_GL", "")
    cure = BACKENDS.get(backend, ("", "set MUJOCO_GL to one of: " + ", ".join(BACKENDS)))[1]
    return ImportError(
        f"MuJoCo cannot render with MUJOCO_GL={backend!r} ({type(error).__name__}: {error}). {cure}; "
        "`python -m sb3_bcvlr.envs.doctor` shows which back ends work here."
    )


def _settle_triton() -> None:
    """
    PyTorch loads Triton with any optimizer, and crashes where Mesa, which draws on CPUs, has brought its LLVM before.

    Where MuJoCo, and Mesa with it, is there already, PyTorch is told that there is no Triton: without a GPU, all that it
    compiles is C++. With one it may be needed, and MuJoCo draws on that.
    """
    if "mujoco" not in sys.modules:
        with suppress(ImportError):
            import triton  # noqa: F401
    elif not has_gpu():
        loaded: dict[str, Any] = sys.modules
        loaded.setdefault("triton", None)  # which makes its import an ImportError


def has_gpu() -> bool:
    """Whether there is one of NVIDIA's."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def require(module: str, extra: str) -> ModuleType:
    """
    Choose the back end and import ``module``.

    :raises ImportError: the package of ``extra`` or the OpenGL library is missing; the message says what to install
    """
    backend = choose_backend()
    if backend in ("egl", "osmesa"):
        _settle_triton()
    try:
        mujoco = import_module("mujoco")
        if backend in ("egl", "osmesa"):  # MuJoCo reads MUJOCO_GL when it is imported, which may have been before
            mujoco.gl_context.GLContext = import_module(f"mujoco.{backend}").GLContext
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"{error.name} is missing: pip install 'sb3_bcvlr[{extra}]'") from error
    except Exception as error:  # PyOpenGL fails in many ways where its library is missing
        raise _no_backend(error) from error


def check_render_mode(render_mode: str) -> None:
    """
    :raises ValueError: it is another than the only one there is
    """
    if render_mode != "rgb_array":
        raise ValueError(f"render_mode is {render_mode!r}, expected 'rgb_array', the only one there is")


@cache
def _close_renderers_at_exit() -> None:
    """
    Called once, after the first context exists: the last to register is the first to run at exit, and the contexts must go
    before the display that they live on.
    """
    atexit.register(lambda: [renderer.close() for renderer in list(_renderers)])


def list_cameras(camera: int | str | Sequence[int | str]) -> list[int | str]:
    """
    One camera, several, or their names joined by "+"; digits are numbers.

    :raises ValueError: there is none
    """
    if isinstance(camera, int | np.integer):
        return [int(camera)]
    cameras = camera.split("+") if isinstance(camera, str) else camera
    if not isinstance(cameras, Sequence) or not cameras:
        raise ValueError(f"The camera is {camera!r}, expected a number, a name or a list of some.")
    return [int(name) if isinstance(name, str) and name.isdigit() else name for name in cameras]


def join_names(cameras: Sequence[int | str]) -> int | str:
    """What ``list_cameras`` takes apart again."""
    return cameras[0] if len(cameras) == 1 else "+".join(map(str, cameras))


class ActionRepeat(gym.Wrapper):
    """
    Repeat each action and sum the rewards; an episode that ends takes no further action.

    :param n_repeats: simulated steps of each action
    """

    def __init__(self, env: gym.Env, n_repeats: int):
        super().__init__(env)
        self.n_repeats = n_repeats

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        rewards = 0.0
        for _ in range(self.n_repeats):
            observation, reward, terminated, truncated, info = self.env.step(action)
            rewards += float(reward)
            if terminated or truncated:
                break
        return observation, rewards, terminated, truncated, info


class PixelObservation(gym.Wrapper):
    """
    Observations are pictures (3, image_size, n_cameras * image_size) uint8; what the simulator observes goes to
    ``info["state"]``.

    A picture costs far more than the physics, and most of it is shadows and antialiasing: ``fast`` leaves them out. What a
    policy sees must look like the videos, so record and act with the same ``rendering_settings``.

    :param simulation: gives the running ``(MjModel, MjData)``; some environments replace them at a reset
    :param cameras: number or name of each view; several stand side by side
    :param fast: no shadows, no reflections, no antialiasing
    """

    def __init__(
        self,
        env: gym.Env,
        simulation: Callable[[], tuple[Any, Any]],
        cameras: Sequence[int | str],
        image_size: int,
        fast: bool,
    ):
        super().__init__(env)
        model, _ = simulation()
        names = [model.camera(i).name for i in range(model.ncam)]
        for camera in cameras:
            if camera not in names and camera not in range(model.ncam):
                raise ValueError(f"There is no camera {camera!r}; choose a number below {model.ncam} or one of {names}")
        self.observation_space = spaces.Box(0, 255, (3, image_size, len(cameras) * image_size), np.uint8)
        self.rendering_settings = {
            "camera": join_names(cameras),
            "image_size": image_size,
            "fast_rendering": fast,
            "backend": os.environ.get("MUJOCO_GL", ""),
        }
        self._simulation = simulation
        # Some cameras of Meta-World hang upside down: their up vector, the second column, points down.
        numbers = [model.camera(camera).id for camera in cameras]
        self._views = [(number, model.cam_mat0[number].reshape(3, 3)[2, 1] < -1e-6) for number in numbers]
        self._renderer: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        state, info = self.env.reset(seed=seed, options=options)
        if self._renderer is not None and self._renderer.model.nhfield:  # a new terrain must be uploaded
            self._renderer.close()
            self._renderer = None
        return self._observation(), {**info, "state": state}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        state, reward, terminated, truncated, info = self.env.step(action)
        return self._observation(), float(reward), terminated, truncated, {**info, "state": state}

    def _observation(self) -> np.ndarray:
        return np.ascontiguousarray(self.render().transpose(2, 0, 1))

    def render(self) -> np.ndarray:  # type: ignore[override]
        """A picture (image_size, n_cameras * image_size, 3) uint8 of the present state."""
        model, data = self._simulation()
        if self._renderer is None or self._renderer.model is not model:
            self._start(model)
        pictures = []
        for camera, is_upside_down in self._views:
            self._renderer.update_scene(data, camera)
            picture = self._renderer.render()
            pictures.append(np.rot90(picture, 2) if is_upside_down else picture)
        return np.concatenate(pictures, axis=1)

    def _start(self, model: Any) -> None:
        """
        :raises ImportError: no OpenGL context can be made
        """
        import mujoco

        if self._renderer is not None:
            self._renderer.close()
        size, fast = self.rendering_settings["image_size"], self.rendering_settings["fast_rendering"]
        buffer = model.vis.global_
        buffer.offwidth, buffer.offheight = max(buffer.offwidth, size), max(buffer.offheight, size)
        if fast:  # before the context is made
            model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
        try:
            self._renderer = mujoco.Renderer(model, size, size)
        except Exception as error:
            raise _no_backend(error) from error
        if fast:  # after it
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                self._renderer.scene.flags[flag] = False
        _renderers.add(self._renderer)
        _close_renderers_at_exit()

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        super().close()


def pixels(
    env: gym.Env,
    simulation: Callable[[], tuple[Any, Any]],
    cameras: Sequence[int | str],
    image_size: int,
    n_stack: int,
    action_repeat: int,
    fast: bool,
) -> gym.Env:
    """
    What continuous control looks like to a policy: actions float32 in [-1, 1], each repeated, the last pictures stacked.

    Observations are (3 * n_stack, image_size, n_cameras * image_size) uint8, oldest first; an episode begins with its first
    picture repeated. Skipped steps are not rendered.

    :raises ValueError: a number that is not whole or below 1, or a camera that is not there
    """
    check_whole(image_size=image_size, n_stack=n_stack, action_repeat=action_repeat)
    metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / (env.unwrapped.dt * action_repeat))}  # type: ignore
    if np.abs(env.action_space.high).max() < UNBOUNDED:  # type: ignore[attr-defined]
        env = RescaleAction(env, np.float32(-1), np.float32(1))
    env = ActionRepeat(env, action_repeat)
    env.action_space = spaces.Box(-1, 1, env.action_space.shape, np.float32)  # DeepMind Control's is float64
    env = PixelObservation(env, simulation, cameras, image_size, fast)
    env.metadata = metadata
    return OwnWrappers(stack_frames(env, n_stack))


class OwnWrappers(gym.Wrapper):
    """An environment whose wrappers belong to it: its spec, with which it is made again, does not list them."""

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]
        return self.unwrapped.spec
