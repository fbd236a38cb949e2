"""
Experts for ``record_videos.py``: a sampling planner for DMControl, Meta-World's scripted policies, models and functions.

An expert is called at the start of an episode with the environment and a random generator. It returns the policy of this
episode: a function of observation and info (what ``reset`` and ``step`` return) that gives an action.
"""

import importlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import gymnasium as gym
import numpy as np

Policy = Callable[[np.ndarray, dict[str, Any]], Any]
Expert = Callable[[gym.Env, np.random.Generator], Policy]
Cost = Callable[[Any, np.ndarray], np.ndarray]  # of an MjModel and positions (..., nq): (...), which the planner makes small


def find_expert(name: str | None, env_id: str, algo: str | None = None, sample: bool = False) -> tuple[Expert, int]:
    """
    :param name: a model (``path/to/model.zip``), a policy (``module:function``, of the observation), or None: the expert that
        belongs to the environment
    :param algo: which class wrote the model: "sac", "ppo", ..., "bcvlr"
    :param sample: draw the model's actions instead of taking the most likely one
    :return: the expert, and how many pictures it wants stacked
    :raises ValueError: there is no such expert
    """
    suite, _, task = env_id.partition("/")
    if name is not None and name.endswith(".zip"):
        return load_model(Path(name), algo, sample)
    if name is not None:
        return import_policy(name), 1
    if suite == "dmcontrol":
        return planner(task.removesuffix("-v0")), 1
    if suite == "metaworld":
        return scripted, 1
    if suite == "sb3_bcvlr":
        return lambda env, rng: lambda observation, info: env.unwrapped.expert_action(), 1  # type: ignore[attr-defined]
    raise ValueError(f"{env_id} has no expert of its own; give --expert MODEL.zip with --algo, or --expert MODULE:FUNCTION.")


def load_model(path: Path, algo: str | None, sample: bool) -> tuple[Expert, int]:
    """
    A model of Stable-Baselines3 or of this package. One with a single axis of inputs is given the simulator's state.

    :raises ValueError: no such file or class, or the file is another's
    """
    import stable_baselines3
    import torch as th

    import sb3_bcvlr

    classes = {name.lower(): value for module in (stable_baselines3, sb3_bcvlr) for name, value in vars(module).items()}
    model_class: Any = classes.get(str(algo).lower())
    if not path.exists() or not hasattr(model_class, "load"):
        known = " ".join(sorted(name for name, value in classes.items() if hasattr(value, "load")))
        raise ValueError(
            f"Got --expert {path} --algo {algo}, expected a file that exists and the class that wrote it: {known}."
        )
    try:
        model = model_class.load(path, device="cpu")
    except Exception as error:  # whatever a class says to the file of another
        raise ValueError(f"{path} cannot be read as --algo {algo}, expected the class that wrote it: {error}") from error
    shape = model.observation_space.shape

    def start(env: gym.Env, rng: np.random.Generator) -> Policy:
        th.manual_seed(int(rng.integers(2**31)))  # what a policy that samples draws from

        def act(observation: np.ndarray, info: dict[str, Any]) -> Any:
            inputs = flat(info["state"]) if len(shape) == 1 else observation
            return model.predict(inputs, deterministic=not sample)[0]

        return act

    return start, shape[0] // 3 if len(shape) == 3 and shape[0] < shape[2] else 1


def import_module(name: str) -> ModuleType:
    """Also from the working directory."""
    sys.path.append(".")
    return importlib.import_module(name)


def import_policy(name: str) -> Expert:
    """
    :param name: ``module:function``; modules are also looked for in the working directory
    :raises ValueError: it cannot be imported
    """
    module, _, function = name.partition(":")
    try:
        policy = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"Got the expert {name}, expected MODEL.zip or an importable MODULE:FUNCTION ({error}).") from error
    return lambda env, rng: lambda observation, info: policy(observation)


def flat(state: Any) -> np.ndarray:
    """What a simulator observes, an array or a dict of them, as one float32 vector."""
    parts = state.values() if isinstance(state, dict) else [state]
    return np.concatenate([np.ravel(part) for part in parts]).astype(np.float32)


def scripted(env: gym.Env, rng: np.random.Generator) -> Policy:
    """Meta-World's own policy for the task of ``env``, which reads the true state."""
    policies = importlib.import_module("metaworld.policies")  # not before the environment has chosen how MuJoCo renders
    policy = policies.ENV_POLICY_MAP[env.unwrapped.spec.id.removeprefix("metaworld/")]()  # type: ignore[union-attr]

    def act(observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks for more than an action can be, and says so
            return np.clip(policy.get_action(info["state"]), -1, 1)

    return act


def reacher_cost(model: Any, qpos: np.ndarray) -> np.ndarray:
    """Distance of the finger from the target; both links of the arm are 0.12 long."""
    angles = np.cumsum(qpos, axis=-1)
    finger = 0.12 * np.stack((np.cos(angles).sum(-1), np.sin(angles).sum(-1)), axis=-1)
    return np.linalg.norm(finger - model.geom("target").pos[:2], axis=-1)


def point_mass_cost(model: Any, qpos: np.ndarray) -> np.ndarray:
    """Distance of the mass from the middle."""
    return np.linalg.norm(qpos, axis=-1)


def ball_in_cup_cost(model: Any, qpos: np.ndarray) -> np.ndarray:
    """Least with the ball in the cup. The way in is from above: until then the ball has to rise, where it is in the world."""
    cup_x, cup_z, ball_x, ball_z = np.moveaxis(qpos, -1, 0)
    x, z = ball_x - cup_x, (ball_z + 0.2) - (cup_z + 0.55)  # from the middle of the cup
    caught = (abs(x) < 0.025) & (abs(z) < 0.025)
    may_fall_in = (z > 0.05) | ((abs(x) < 0.05) & (z > -0.05))
    to_rest = np.hypot(cup_x, cup_z)  # where a ball is kept without effort; else the cup would wander
    return np.select([caught, may_fall_in], [to_rest - 1, np.hypot(x, z)], 1 - ball_z)


PLANS: dict[str, dict[str, Any]] = {
    "reacher_easy": dict(cost=reacher_cost, horizon=25),
    "reacher_hard": dict(cost=reacher_cost, horizon=25),
    "point_mass_easy": dict(cost=point_mass_cost, horizon=25, sigma=0.25, temperature=0.3),  # strong controls cost reward
    "ball_in_cup_catch": dict(cost=ball_in_cup_cost, horizon=30, n_samples=16),  # each 10 times as dear as elsewhere
}


def planner(task: str) -> Expert:
    """:raises ValueError: no cost is known for ``task``"""
    if task not in PLANS:
        raise ValueError(
            f"The planner knows {', '.join(PLANS)}, not {task}; train an expert with train_expert.py and give it as --expert."
        )
    return lambda env, rng: Planner(env, rng, **PLANS[task])


class Planner:
    """
    Model predictive path integral control (Williams et al. 2017, https://arxiv.org/abs/1509.01149): at each step perturb the
    last plan, roll the copies out in the task's own simulator, and average them, the cheap ones most.

    :param env: "dmcontrol/..."; actions are controls, both from -1 to 1
    :param cost: what to make small, summed over the plan
    :param horizon: control steps to look ahead; an action is held for the environment's action repeat
    :param n_samples: copies of the plan
    :param n_knots: points between which a perturbation is linear in time, since white noise would cancel itself out
    :param sigma: standard deviation of the perturbation at these points
    :param temperature: of the average, in standard deviations of the copies' costs
    """

    def __init__(
        self,
        env: gym.Env,
        rng: np.random.Generator,
        cost: Cost,
        horizon: int,
        n_samples: int = 48,
        n_knots: int = 5,
        sigma: float = 0.5,
        temperature: float = 0.1,
    ):
        self.mujoco, self.rollout = (importlib.import_module(name) for name in ("mujoco", "mujoco.rollout"))
        self.simulation = cast(Any, env.unwrapped)
        self.model = self.simulation.physics.model.ptr
        self.data = self.mujoco.MjData(self.model)  # for the copies: the environment's own stays as it is
        self.rng, self.cost, self.sigma, self.temperature = rng, cost, sigma, temperature
        n_repeats = env.get_wrapper_attr("n_repeats")
        self.n_substeps = n_repeats * round(self.simulation.control_timestep() / self.model.opt.timestep)
        self.plan = np.zeros((-(-horizon // n_repeats), self.model.nu))
        times, knots = np.linspace(0, n_knots - 1, len(self.plan)), np.arange(n_knots)
        self.from_knots = np.maximum(1 - abs(times[:, None] - knots), 0)  # (len(plan), n_knots)
        self.noise_shape = n_samples, n_knots, self.model.nu

    def __call__(self, observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """The action (nu,) for the state in which the simulation is."""
        last_plan = np.concatenate((self.plan[1:], self.plan[-1:]))
        noise = self.sigma * self.from_knots @ self.rng.normal(size=self.noise_shape)
        noise[0] = 0  # the last plan itself stays in the choice
        plans = np.clip(last_plan + noise, -1, 1)  # (n_samples, len(plan), nu)
        controls = plans.repeat(self.n_substeps, axis=1)
        states, _ = self.rollout.rollout(self.model, self.data, self._state()[None], controls)
        qpos = states[:, self.n_substeps - 1 :: self.n_substeps, 1 : 1 + self.model.nq]  # a state begins with its time
        costs = self.cost(self.model, qpos).sum(1)
        weights = np.exp((costs.min() - costs) / (self.temperature * costs.std() + 1e-9))
        self.plan = np.tensordot(weights / weights.sum(), plans, 1)
        return self.plan[0]

    def _state(self) -> np.ndarray:
        everything = self.mujoco.mjtState.mjSTATE_FULLPHYSICS.value
        state = np.empty(self.mujoco.mj_stateSize(self.model, everything))
        self.mujoco.mj_getState(self.model, self.simulation.physics.data.ptr, state, everything)
        return state
