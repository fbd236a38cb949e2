"""
Experts for ``record_videos.py``: a sampling planner for DMControl, Meta-World's scripted policies, models and functions.

An expert is a function of environment and random generator, called at the start of each episode; it returns the policy for
this episode, a function from observation to action.
"""

import importlib
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

Policy = Callable[[np.ndarray], Any]
Expert = Callable[[gym.Env, np.random.Generator], Policy]
Cost = Callable[[Any, np.ndarray], np.ndarray]  # of the model and positions (..., nq): what the planner makes small, (...)


def reacher_cost(model: Any, qpos: np.ndarray) -> np.ndarray:
    """Distance of the finger from the target; both links of the arm are 0.12 long."""
    angles = np.cumsum(qpos, axis=-1)
    finger = 0.12 * np.stack((np.cos(angles).sum(-1), np.sin(angles).sum(-1)), axis=-1)
    return np.linalg.norm(finger - model.geom("target").pos[:2], axis=-1)


def point_mass_cost(model: Any, qpos: np.ndarray) -> np.ndarray:
    """Distance of the mass from the middle."""
    return np.linalg.norm(qpos, axis=-1)


def ball_in_cup_cost(model: Any, qpos: np.ndarray) -> np.ndarray:
    """Least with the ball in the cup; a ball beside or below the cup has to rise first, the way in is from above."""
    cup_x, cup_z, ball_x, ball_z = np.moveaxis(qpos, -1, 0)
    x, z = ball_x - cup_x, (ball_z + 0.2) - (cup_z + 0.55)  # from the middle of the cup
    caught = (abs(x) < 0.025) & (abs(z) < 0.025)
    may_fall_in = (z > 0.05) | (abs(x) < 0.05) & (z > -0.05)
    return np.select([caught, may_fall_in], [-1.0, np.hypot(x, z)], 0.5 + np.maximum(0.1 - z, 0))


PLANS: dict[str, dict[str, Any]] = {
    "reacher_easy": dict(cost=reacher_cost, horizon=25),
    "reacher_hard": dict(cost=reacher_cost, horizon=25),
    "point_mass_easy": dict(cost=point_mass_cost, horizon=25),
    "ball_in_cup_catch": dict(cost=ball_in_cup_cost, horizon=30),
}


class Planner:
    """
    Model predictive path integral control (Williams et al., 2017): at each step, perturb the last plan, roll the copies out
    in the task's own simulator and average them, the cheap ones most.

    :param physics: of a DMControl environment
    :param cost: what to make small
    :param horizon: control steps to look ahead
    :param control_steps: control steps for which an action is held, the environment's action repeat
    :param control_seconds: length of a control step
    :param n_samples: copies of the plan
    :param n_knots: points between which a copy's perturbation is linear in time: white noise would cancel itself out
    :param sigma: standard deviation of the perturbation at these points
    :param temperature: of the average, in standard deviations of the copies' costs
    """

    def __init__(
        self,
        physics: Any,
        cost: Cost,
        horizon: int,
        control_steps: int,
        control_seconds: float,
        rng: np.random.Generator,
        n_samples: int = 48,
        n_knots: int = 5,
        sigma: float = 0.5,
        temperature: float = 0.1,
    ):
        import mujoco
        from mujoco.rollout import Rollout

        self._get_state, self._full = mujoco.mj_getState, mujoco.mjtState.mjSTATE_FULLPHYSICS.value
        self.physics, self.model, self.cost, self.rng = physics, physics.model.ptr, cost, rng
        self.state = np.empty(mujoco.mj_stateSize(self.model, self._full))
        self.data = mujoco.MjData(self.model)  # for the copies: the environment's own stays as it is
        self.rollout = Rollout(nthread=0).rollout
        self.n_substeps = control_steps * round(control_seconds / self.model.opt.timestep)
        self.plan = np.zeros((-(-horizon // control_steps), self.model.nu))
        times, knots = np.linspace(0, n_knots - 1, len(self.plan)), np.arange(n_knots)
        self.from_knots = np.maximum(1 - abs(times[:, None] - knots), 0)  # (len(plan), n_knots)
        self.noise_shape = n_samples, n_knots, self.model.nu
        self.sigma, self.temperature = sigma, temperature

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """The action (nu,) for the state in which ``physics`` is; the observation is not needed."""
        self.plan[:-1] = self.plan[1:]
        noise = self.sigma * self.from_knots @ self.rng.normal(size=self.noise_shape)
        noise[0] = 0  # the last plan itself stays in the choice
        plans = np.clip(self.plan + noise, *self.model.actuator_ctrlrange.T)  # (n_samples, len(plan), nu)
        self._get_state(self.model, self.physics.data.ptr, self.state, self._full)
        states, _ = self.rollout(self.model, self.data, self.state[None], plans.repeat(self.n_substeps, axis=1))
        qpos = states[:, self.n_substeps - 1 :: self.n_substeps, 1 : 1 + self.model.nq]  # a state begins with its time
        costs = self.cost(self.model, qpos).sum(1)
        weights = np.exp((costs.min() - costs) / (self.temperature * costs.std() + 1e-9))
        self.plan = np.tensordot(weights / weights.sum(), plans, 1)
        return self.plan[0].copy()


def planner(task: str, action_repeat: int) -> Expert:
    """:raises ValueError: no cost is known for this task"""
    if task not in PLANS:
        raise ValueError(
            f"The planner knows {', '.join(PLANS)}, got {task}; for another task train an expert with train_expert.py "
            "and give --expert MODEL.zip --algo sac."
        )

    def start(env: gym.Env, rng: np.random.Generator) -> Policy:
        inner: Any = env.unwrapped
        return Planner(inner.physics, rng=rng, control_steps=action_repeat, control_seconds=inner.control_timestep(), **PLANS[task])

    return start


def scripted(task: str) -> Expert:
    """Meta-World's own policy for the task, which reads the true state."""
    import metaworld.policies

    policy = metaworld.policies.ENV_POLICY_MAP[task]()

    def act(env: gym.Env) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it asks for more than an action can be: it is clipped
            return np.clip(policy.get_action(read_state(env)), -1, 1)

    return lambda env, rng: lambda observation: act(env)
