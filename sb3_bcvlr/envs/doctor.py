"""
What works on this machine: ``python -m sb3_bcvlr.envs.doctor``.

Tries every OpenGL back end and every simulator, each in a process of its own: a back end is chosen once in the life of a
process, and one that is broken may take it down.
"""

import os
import subprocess
import sys

from sb3_bcvlr.envs.rendering import BACKENDS, choose_backend

SECONDS_TO_START = 120
RENDER = """
import time
import mujoco

fast = "<visual><quality shadowsize='0' offsamples='0'/><global offwidth='64' offheight='64'/></visual>"
spheres = "".join(f"<geom size='.1' pos='{i % 4} {i // 4} 0'/>" for i in range(16))
world = f"<worldbody><light pos='0 0 5'/>{spheres}</worldbody>"
model = mujoco.MjModel.from_xml_string(f"<mujoco>{fast}{world}</mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 64, 64) as renderer:
    renderer.update_scene(data)
    assert renderer.render().any(), "the picture is black"
    n_frames, start = 0, time.perf_counter()
    while time.perf_counter() < start + 0.5:
        renderer.update_scene(data)
        renderer.render()
        n_frames += 1
    print(round(n_frames / (time.perf_counter() - start)))
"""
# What to run to see that a simulator works, and the extra that installs it.
SIMULATORS = {
    "dm_control": ("from sb3_bcvlr.envs import dmcontrol_env; dmcontrol_env('reacher_easy').reset()", "dmc"),
    "metaworld": ("from sb3_bcvlr.envs import metaworld_env; metaworld_env('reach').reset()", "metaworld"),
    "procgen": ("from sb3_bcvlr.envs import make_procgen; make_procgen('maze', 1, 0).reset()", "procgen"),
}


def run(code: str, **environment: str) -> tuple[bool, str]:
    """Run Python ``code`` in a new process: whether it ended well, and the last line that it printed or complained with."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            timeout=SECONDS_TO_START,
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer after {SECONDS_TO_START} s"
    complaint = done.stderr.split("Exception ignored")[0]  # what follows comes of clearing up
    lines = (complaint if done.returncode else done.stdout).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f"exit status {done.returncode}"


def main() -> int:
    """Print what works and what to do about the rest; 0 if at least one back end does."""
    print(f"MUJOCO_GL as it would be chosen: {choose_backend() or '(left to MuJoCo)'}\n\nOpenGL back ends")
    working = 0
    for backend, (_, cure) in BACKENDS.items():
        starts, answer = run(RENDER, MUJOCO_GL=backend, PYOPENGL_PLATFORM=backend if backend != "glfw" else "")
        working += starts
        print(
            f"  {backend:10} " + (f"{answer} frames/s" if starts else f"does not start ({answer})\n{'':13}{cure}"), flush=True
        )
    print("\nSimulators")
    for name, (code, extra) in SIMULATORS.items():
        starts, answer = run(code)
        cure = f"pip install 'sb3_bcvlr[{extra}]'"
        print(f"  {name:10} " + ("works" if starts else f"does not start ({answer})\n{'':13}{cure}"), flush=True)
    return 0 if working else 1


if __name__ == "__main__":
    sys.exit(main())
