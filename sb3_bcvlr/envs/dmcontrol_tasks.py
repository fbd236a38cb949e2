"""
Tasks that dm_control does not have, made of its parts: the running-backward cheetah and the reaching Jaco arm.

They follow the Unsupervised RL Benchmark (Laskin et al. 2021, https://arxiv.org/abs/2110.15191), which the paper uses.
"""

from types import SimpleNamespace

from dm_control import composer
from dm_control.entities import props
from dm_control.manipulation import reach
from dm_control.manipulation.shared import arenas, constants, observations, robots, workspaces
from dm_control.mujoco import Physics
from dm_control.rl import control
from dm_control.suite import cheetah
from dm_control.utils import rewards

TIME_LIMIT = 10.0  # seconds of an episode
RUN_SPEED = 10.0  # meters a second that earn the full reward
CORNER = 0.09  # meters from the middle of the table to the target, along both axes
JACO_TARGETS = {  # seen from the camera: right is +x, top is +y
    "top_left": (-CORNER, CORNER),
    "top_right": (CORNER, CORNER),
    "bottom_left": (-CORNER, -CORNER),
    "bottom_right": (CORNER, -CORNER),
}


class RunBackward(cheetah.Cheetah):
    """The cheetah's task with the opposite sign: 1 from ``RUN_SPEED`` backward on, falling to 0 at rest."""

    def get_reward(self, physics: Physics) -> float:
        bounds = (RUN_SPEED, float("inf"))
        return rewards.tolerance(-physics.speed(), bounds, margin=RUN_SPEED, value_at_margin=0, sigmoid="linear")


def cheetah_run_backward(seed: int | None) -> control.Environment:
    """Episodes of 1000 steps of 0.01 s."""
    physics = cheetah.Physics.from_xml_string(*cheetah.get_model_and_assets())
    return control.Environment(physics, RunBackward(random=seed), time_limit=TIME_LIMIT)


def jaco_reach(corner: str, seed: int | None) -> composer.Environment:
    """
    Bring the hand to a Duplo brick in a corner of the table: 1 within 0.05 m, falling to 0.1 at 0.1 m.

    Episodes of 250 steps of 0.04 s. The brick stands in its place, turned at random; the arm starts at random above the table.

    :param corner: one of ``JACO_TARGETS``
    """
    settings = observations.PERFECT_FEATURES  # no camera: pictures are taken elsewhere
    target = (*JACO_TARGETS[corner], 0.001)  # a millimeter above the table, onto which the brick settles
    workspace = SimpleNamespace(
        target_bbox=workspaces.BoundingBox(lower=target, upper=target),
        tcp_bbox=workspaces.BoundingBox(lower=(-0.1, -0.1, 0.2), upper=(0.1, 0.1, 0.4)),
        arm_offset=robots.ARM_OFFSET,
    )
    task = reach.Reach(
        arena=arenas.Standard(),
        arm=robots.make_arm(obs_settings=settings),
        hand=robots.make_hand(obs_settings=settings),
        prop=props.Duplo(observable_options=observations.make_options(settings, observations.FREEPROP_OBSERVABLES)),
        obs_settings=settings,
        workspace=workspace,
        control_timestep=constants.CONTROL_TIMESTEP,
    )
    # Nothing in the model changes from one episode to the next: to compile it anew would cost half a second.
    env = composer.Environment(task, time_limit=TIME_LIMIT, random_state=seed, recompile_mjcf_every_episode=False)
    env.reset()  # which alone draws from the random state for the model, too
    env.random_state.seed(seed)
    return env
