"""
Record expert videos: one lossless .mp4 an episode and ``episodes.csv`` (file, length, return).

    python examples/record_videos.py --out examples/videos/foraging --episodes 400
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
from tqdm import tqdm

import sb3_bcvlr  # noqa: F401  registers the environments
from sb3_bcvlr.common.video_io import write_video


def record(env: gym.Env, expert: Callable[[np.ndarray], int], out: Path, n_episodes: int, seed: int, slip: float) -> float:
    """
    Play whole episodes and write what is seen, first to last frame, and nothing else: no action, no reward.

    :param expert: observation to action
    :param slip: probability of a random action instead, so that the videos also show how the expert recovers
    :return: mean return
    """
    out.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(seed), []
    env.action_space.seed(seed)
    for episode in tqdm(range(n_episodes), unit="episode"):
        observation, _ = env.reset(seed=seed + episode)
        frames, episode_return, done = [observation], 0.0, False
        while not done:
            action = env.action_space.sample() if rng.random() < slip else expert(observation)
            observation, reward, terminated, truncated, _ = env.step(action)
            frames.append(observation)
            episode_return += float(reward)
            done = terminated or truncated
        write_video(out / f"{episode:05d}.mp4", np.stack(frames))
        rows.append((f"{episode:05d}.mp4", len(frames), episode_return))
    with open(out / "episodes.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "length", "return"), *rows])
    return float(np.mean([row[2] for row in rows]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slip", type=float, default=0.1, help="probability that a random action takes the expert's place")
    args = parser.parse_args()
    foraging = gym.make("sb3_bcvlr/Foraging-v0").unwrapped
    mean_return = record(foraging, lambda _: foraging.expert_action(), args.out, args.episodes, args.seed, args.slip)
    print(f"{args.episodes} episodes, mean return {mean_return:.2f}")
