"""
Learn a policy from videos, judge it and show it: the foraging world from the videos beside this file.

    python examples/quickstart.py            # everything ends up in outputs/quickstart/

``run`` is the whole of it and takes any environment; ``train.py`` calls it for Procgen, DMControl and Meta-World.
"""

import argparse
import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sb3_bcvlr  # isort: skip  # noqa: F401  before stable_baselines3, to keep gym's notice quiet
import numpy as np
import torch as th
from command_line import positive, told_in_a_line
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv

from sb3_bcvlr import BCVLR, VideoDataset, hyperparams
from sb3_bcvlr.common.files import read_csv, write_csv
from sb3_bcvlr.common.video_io import write_video

VIDEOS = Path(__file__).parent / "videos" / "foraging"


def eval_seed(seed: int) -> int:
    """Of the evaluation's environments: their levels are apart from those of training, of the videos and of other seeds."""
    return 1_000_000 + 1_000 * seed  # SB3 gives environment i the seed + i


class RandomPolicy:
    """Random actions behind the one method that ``evaluate_policy`` calls."""

    def __init__(self, env: VecEnv):
        env.action_space.seed(0)
        self.env = env

    def predict(self, observations: np.ndarray, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
        return np.array([self.env.action_space.sample() for _ in observations]), None


class LearningCurve(BaseCallback):
    """
    ``points``: environment steps, mean return of the training episodes that end between two updates, and seconds since this
    callback was made.
    """

    columns = ("step", "return", "seconds")

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[int, float, float]] = []
        self._start = time.perf_counter()
        self._returns: list[float] = []

    def _on_step(self) -> bool:
        self._returns += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return True

    def _on_rollout_end(self) -> None:
        if self._returns:
            seconds = round(time.perf_counter() - self._start, 1)
            self.points.append((self.num_timesteps, float(np.mean(self._returns)), seconds))
            self._returns = []


def evaluate(policy: Any, env: VecEnv, n_episodes: int, deterministic: bool = False) -> dict[str, Any]:
    """
    Whole episodes, as many in each environment.

    :return: ``return``, ``stderr`` of it, None where there is one episode, and ``success`` where the environment tells
        ``is_success``: the share of episodes
    """
    successes: list[float] = []

    def note_success(local_variables: dict[str, Any], _: dict[str, Any]) -> None:
        if local_variables["done"] and "is_success" in local_variables["info"]:
            successes.append(float(local_variables["info"]["is_success"]))

    returns, _ = evaluate_policy(policy, env, n_episodes, deterministic, callback=note_success, return_episode_rewards=True)
    stderr = float(np.std(returns, ddof=1) / len(returns) ** 0.5) if len(returns) > 1 else None
    result: dict[str, Any] = {"return": float(np.mean(returns)), "stderr": stderr}
    return result | ({"success": float(np.mean(successes))} if successes else {})


def evaluate_random(env: VecEnv, n_episodes: int) -> dict[str, Any]:
    """What ``evaluate`` gives of random play, by names that begin so."""
    return {f"random_{name}": value for name, value in evaluate(RandomPolicy(env), env, n_episodes).items()}


def add_row(rows: list[dict[str, Any]], row: dict[str, Any], path: Path) -> None:
    """Keep a row, its floats rounded, show it and write the table."""
    rows.append({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()})
    print(json.dumps(rows[-1]), flush=True)
    write_csv(path, rows)


def load_videos(
    folders: Path | list[Path], env: VecEnv, seed: int, n_history: int | None = None, on_error: str = "skip"
) -> VideoDataset:
    """The videos as ``env`` shows them, in size and in stacks; ``n_history`` by default as ``BCVLR`` takes it."""
    shape = env.observation_space.shape
    n_stack, image_size = (1, shape[:2]) if shape[-1] == 3 else (shape[0] // 3, shape[1:])
    if n_history is None:
        n_history = 1 if n_stack > 1 else 2
    return VideoDataset(folders, image_size, n_stack=n_stack, n_history=n_history, on_error=on_error, seed=seed)


def read_video_return(videos: Path) -> float | None:
    """Mean of ``return`` in ``episodes.csv``; None where that file does not tell it, or where the videos are clips."""
    if not (videos / "episodes.csv").exists():
        return None
    rows = read_csv(videos / "episodes.csv")
    # What a clip earned until it was cut is nothing to compare whole episodes with.
    is_cut = any(row.get(name) for row in rows for name in ("max_steps", "stop_after_success"))
    if is_cut or not rows or not all(row.get("return") for row in rows):  # or by another program
        return None
    return float(np.mean([float(row["return"]) for row in rows]))


def choose_convolutions(fast: bool) -> None:
    """
    On a GPU, a seed given to a model makes SB3 ask cuDNN for convolutions that repeat to the last bit.

    :param fast: take that back; to be called after each model that is made
    """
    if fast:
        th.backends.cudnn.deterministic = False


def peak_gpu_memory(device: th.device) -> dict[str, float]:
    """GiB that tensors took at most, and that PyTorch held for them; empty where there is no GPU."""
    if device.type != "cuda":
        return {}
    peaks = {
        "peak_gpu_gib": th.cuda.max_memory_allocated(device),
        "peak_gpu_reserved_gib": th.cuda.max_memory_reserved(device),
    }
    return {name: round(value / 2**30, 3) for name, value in peaks.items()}


def run(
    make_env: Callable[[int, int], VecEnv],
    videos: Path,
    out: Path,
    steps: int,
    n_envs: int,
    n_eval_episodes: int,
    seed: int,
    fast_convolutions: bool = False,
    **model_kwargs: Any,
) -> dict[str, Any]:
    """
    Pre-train, learn online, evaluate; write model.zip, summary.json, learning_curve.png and .csv, side_by_side.mp4, and in
    progress.csv what the model logs meanwhile (docs/modules/bcvlr.md), unless ``tensorboard_log`` is where that goes.

    :param make_env: called with the number of environments and a seed
    :param videos: a folder of expert videos; what they return is read in its ``episodes.csv`` (file, length, return), if there
    :param n_eval_episodes: fresh episodes of an evaluation, as many in each of at most 64 environments
    :param fast_convolutions: ``choose_convolutions``
    :return: what ``summary.json`` holds
    """
    seconds = {}

    def timed(stage: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = function(*args, **kwargs)
        seconds[stage] = time.perf_counter() - start
        return result

    with told_in_a_line():
        video_return = read_video_return(videos)
        env = make_env(n_envs, seed)
        eval_env = make_env(min(64, n_eval_episodes), eval_seed(seed))
        dataset = timed("decode", load_videos, videos, env, seed, model_kwargs.get("n_history"))
        model = BCVLR(env, videos=dataset, seed=seed, **model_kwargs)
        out.mkdir(parents=True, exist_ok=True)
    known = "unknown" if video_return is None else f"{video_return:.2f}"
    print(f"{dataset.n_episodes} videos, {dataset.n_frames} frames {dataset.observation_shape}, mean return {known}")
    choose_convolutions(fast_convolutions)
    if keeps_log := model.tensorboard_log is None:
        model.set_logger(configure(str(out), ["csv", *["stdout"] * (model.verbose > 0)]))
    random = timed("random play", evaluate, RandomPolicy(eval_env), eval_env, n_eval_episodes)
    curve = LearningCurve()  # its seconds begin with pre-training
    timed("pre-train", model.pretrain, progress_bar=True)
    timed("learn online", model.learn, steps, callback=curve, progress_bar=True)
    model.save(out / "model.zip")  # before it is judged, which may take long
    policy = timed("evaluate", evaluate, model, eval_env, n_eval_episodes)
    greedy = timed("evaluate greedy", evaluate, model, eval_env, n_eval_episodes, True) if model.policy.is_discrete else policy

    summary: dict[str, Any] = {
        **{f"{who}_success": of["success"] for who, of in (("random", random), ("policy", policy)) if "success" in of},
        "random_return": random["return"],
        "policy_return": policy["return"],
        "policy_return_stderr": policy["stderr"],
        "greedy_return": greedy["return"],
        "greedy_return_stderr": greedy["stderr"],
        "video_return": video_return,
        "env_steps": model.num_timesteps,
        "seconds": sum(seconds.values()),
        **peak_gpu_memory(model.device),
    }
    (out / "summary.json").write_text(json.dumps({**summary, "seconds_per_stage": seconds, "seed": seed}, indent=2) + "\n")
    plot(curve.points, summary, out)
    film(model, make_env(1, eval_seed(seed)), dataset, out / "side_by_side.mp4")
    print(table(summary, seconds))
    print(f"Written to {out}/: model.zip, summary.json, learning_curve.png, {'progress.csv, ' * keeps_log}side_by_side.mp4")
    return summary


def table(summary: dict[str, Any], seconds: dict[str, float]) -> str:
    rows = [("random play", f"{summary['random_return']:8.2f}")]
    for name, actions in (("policy", "sampled"), ("greedy", "greedy")):
        stderr = summary[f"{name}_return_stderr"]
        rows.append((f"learned, {actions}", f"{summary[f'{name}_return']:8.2f}" + (f" +- {stderr:.2f}" if stderr else "")))
    if summary["video_return"] is not None:
        rows.append(("the videos", f"{summary['video_return']:8.2f}"))
    rows += [
        (f"{who} success", f"{summary[f'{who}_success']:8.2f}") for who in ("random", "policy") if f"{who}_success" in summary
    ]
    lines = ["", f"{'return of':<18}  mean +- standard error", *(f"{name:<18}{value}" for name, value in rows), ""]
    lines += [f"{stage:<18}{value:8.1f} s" for stage, value in seconds.items()]
    lines += [f"{'in all':<18}{summary['seconds']:8.1f} s, {summary['env_steps']} environment steps", ""]
    return "\n".join(lines)


def plot(points: list[tuple[int, float, float]], summary: dict[str, Any], out: Path) -> None:
    """The learning curve as a picture and as numbers."""
    with open(out / "learning_curve.csv", "w", newline="") as file:
        csv.writer(file).writerows([LearningCurve.columns, *points])
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    if summary["video_return"] is not None:
        axes.axhline(summary["video_return"], color="tab:green", linestyle="--", label="videos")
    axes.axhline(summary["random_return"], color="tab:gray", linestyle=":", label="random play")
    axes.plot([step for step, *_ in points], [value for _, value, _ in points], marker=".", label="training episodes")
    axes.errorbar(
        summary["env_steps"],
        summary["policy_return"],
        summary["policy_return_stderr"],
        fmt="o",
        label="learned policy, fresh episodes",
    )
    axes.set(xlabel="environment steps", ylabel="return", title="Learned from videos alone: no reward, no expert action")
    axes.legend()
    figure.savefig(out / "learning_curve.png", dpi=120)


def film(model: BCVLR, env: VecEnv, videos: VideoDataset, path: Path, n_frames: int = 300) -> None:
    """Expert on the left, the learned policy on the right, each playing levels of its own."""
    observations, frames = env.reset(), []
    for _ in range(n_frames):
        frame = observations[0]
        frames.append(frame if frame.shape[-1] == 3 else frame[-3:].transpose(1, 2, 0))
        actions, _ = model.predict(observations)
        observations, *_ = env.step(actions)
    left = videos.observations(np.arange(n_frames) % len(videos))[:, -3:].permute(0, 2, 3, 1).cpu().numpy()
    bar = np.full((n_frames, left.shape[1], 2, 3), 255, np.uint8)
    write_video(
        path, np.concatenate((left, bar, np.stack(frames)), axis=2), fps=10, lossless=False, scale=max(1, 256 // left.shape[1])
    )


def make_foraging(n_envs: int, seed: int, **kwargs: Any) -> VecEnv:
    return make_vec_env("sb3_bcvlr/Foraging-v0", n_envs=n_envs, seed=seed, env_kwargs=kwargs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/quickstart"))
    parser.add_argument("--steps", type=positive, default=5_000, help="environment steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-latent-actions", action="store_true", help="leave the latent-action stage out, to compare")
    args = parser.parse_args()
    model_kwargs = hyperparams.get("bcvlr", "foraging")
    if args.without_latent_actions:
        model_kwargs["pretrain_dynamics_steps"] = 0
    run(make_foraging, VIDEOS, args.out, args.steps, n_envs=16, n_eval_episodes=256, seed=args.seed, **model_kwargs)
