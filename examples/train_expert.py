"""
Train an expert with Stable-Baselines3's SAC on the simulator's state, for tasks of DMControl that the planner does not know.

    python examples/train_expert.py finger_spin --steps 200000 --out experts/finger_spin
    python examples/record_videos.py dmcontrol/finger_spin-v0 --out data/finger \\
        --expert experts/finger_spin/best_model.zip --algo sac

Steps are the agent's. The folder holds the best model so far by the return of a few whole episodes, and what they returned.
"""

import argparse
from pathlib import Path

import sb3_bcvlr  # isort: skip  # noqa: F401  before stable_baselines3, to keep gym's notice quiet
import gymnasium as gym
import numpy as np
import torch as th
from command_line import positive, told_in_a_line
from experts import flat
from gymnasium import spaces
from gymnasium.wrappers import RescaleAction, TransformObservation
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor

from sb3_bcvlr.envs import dmcontrol_env
from sb3_bcvlr.envs.rendering import ActionRepeat


def state_env(task: str, action_repeat: int) -> gym.Env:
    """The task of ``dmcontrol_env`` with the same actions, and its state for an observation: nothing is rendered."""
    env = dmcontrol_env(task).unwrapped
    ones = np.ones(env.action_space.shape, np.float32)  # type: ignore[arg-type]
    env = ActionRepeat(RescaleAction(env, -ones, ones), action_repeat)
    space = spaces.Box(-np.inf, np.inf, flat(env.observation_space.sample()).shape, np.float32)
    return Monitor(TransformObservation(env, flat, space))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="of DMControl, such as cheetah_run_backward or jaco_reach_top_left")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=positive, default=500_000)
    parser.add_argument("--action-repeat", type=positive, default=2, help="as in the videos to be recorded")
    parser.add_argument("--eval-every", type=positive, default=10_000)
    parser.add_argument("--hidden-dim", type=positive, default=256, help="of the networks")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    th.set_num_threads(1)  # networks this small are no faster with more
    # On finger spin SB3's own learning rate and starting entropy reach after 50,000 steps what these do after 10,000.
    faster = {"learning_rate": 1e-3, "ent_coef": "auto_0.1", "learning_starts": 1_000}
    networks = {"net_arch": [args.hidden_dim, args.hidden_dim]}
    with told_in_a_line():
        env = state_env(args.task, args.action_repeat)
    model = SAC("MlpPolicy", env, policy_kwargs=networks, seed=args.seed, device=args.device, **faster)
    judge = EvalCallback(
        state_env(args.task, args.action_repeat),
        eval_freq=min(args.eval_every, args.steps),
        best_model_save_path=str(args.out),
        log_path=str(args.out),
    )
    model.learn(args.steps, callback=judge, progress_bar=True)
    print(
        f"best mean return of {judge.n_eval_episodes} episodes: {judge.best_mean_reward:.1f} ({args.out / 'best_model.zip'})"
    )


if __name__ == "__main__":
    main()
