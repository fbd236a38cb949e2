"""
Record expert videos: one lossless .mp4 an episode, and ``episodes.csv`` with its length, return, success and settings.

    python examples/record_videos.py --out examples/videos/foraging --episodes 400
    python examples/record_videos.py dmcontrol/reacher_hard-v0 --out data/reacher --episodes 1000 --stop-after-success 10
    python examples/record_videos.py metaworld/drawer-open-v3 --out data/drawer --stop-after-success 5
    python examples/record_videos.py dmcontrol/finger_spin-v0 --out data/finger --expert experts/best_model.zip --algo sac
    python examples/record_videos.py procgen/maze-v0 --out data/maze --expert my_module:my_policy

Without --expert the one that belongs to the environment plays: a sampling planner (DMControl: reacher, point_mass,
ball_in_cup), Meta-World's scripted policies, the foraging world's own. One video frame is one step of the agent: record with
the action repeat, the image size, the camera and the rendering with which the policy is to act. Many short clips teach more
than few long ones, so end them soon after the goal; what the expert is worth in whole episodes, a few videos without that
option tell.

An episode depends on the settings, the seed and its number alone. A run that was stopped goes on where it was, and any number
of processes writes the same videos. These hold pixels and nothing else; --actions writes LAPO's .npz chunks (``obs``, ``ta``,
``done``) into a folder of their own, for diagnostics: nothing in training may see an expert's action.
"""

import argparse
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sb3_bcvlr  # isort: skip  # noqa: F401  registers the environments
import gymnasium as gym
import numpy as np
from command_line import not_negative, positive, share, told_in_a_line
from experts import Policy, find_expert, import_module
from gymnasium import spaces
from tqdm import tqdm

from sb3_bcvlr.common.files import read_csv, write_csv, written_beside
from sb3_bcvlr.common.video_io import write_video

SUITES = "dmcontrol/", "metaworld/"  # whose environments take the options of pictures


@dataclass(frozen=True)
class Settings:
    """
    What an episode depends on besides its number. Each row of ``episodes.csv`` repeats it, and how the pictures were drawn: a
    policy should see the same kind. None is the environment's own value.
    """

    env: str = "sb3_bcvlr/Foraging-v0"
    expert: str | None = None
    algo: str | None = None
    sample: bool = False
    seed: int = 0
    noise: float = 0.1
    max_steps: int | None = None
    stop_after_success: int | None = None
    image_size: int | None = None
    action_repeat: int | None = None
    fast_rendering: bool | None = None
    camera: str | None = None


class Recorder:
    """
    Plays and writes single episodes; each process has one.

    :param out: folder of the videos
    :param actions: folder of the labelled chunks, or None
    :raises ValueError: these settings make no environment or no expert
    """

    def __init__(self, settings: Settings, out: Path, actions: Path | None):
        self.settings, self.out, self.actions = settings, out, actions
        module, _, env_id = settings.env.rpartition(":")
        if module:  # as in gymnasium.make, which registers it
            import_module(module)
        gym.spec(env_id)  # an unknown name is told before anything else
        self.expert, n_stack = find_expert(settings.expert, env_id, settings.algo, settings.sample)
        names = "image_size", "action_repeat", "fast_rendering", "camera"
        options = {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}
        if env_id.startswith(SUITES):
            options["n_stack"] = n_stack
        elif options:
            raise ValueError(f"{settings.env} takes no {', '.join(options)}: these belong to {' and '.join(SUITES)}.")
        self.env = gym.make(env_id, disable_env_checker=True, **options)
        newest_picture(self.env.observation_space.sample())  # which tells what are no pictures
        columns = asdict(settings)
        if env_id.startswith(SUITES):  # what the settings may have left to the environment
            columns |= self.env.get_wrapper_attr("rendering_settings")
            columns["action_repeat"] = self.env.get_wrapper_attr("n_repeats")
        self.columns = {name: "" if value is None else str(value) for name, value in columns.items()}

    def __call__(self, episode: int) -> dict[str, Any]:
        """Write an episode and return its row."""
        # Not seed + episode: the second episode of one seed would be the first of the next.
        rng = np.random.default_rng((self.settings.seed, episode))
        observation, info = self.env.reset(seed=int(rng.integers(2**31)))
        frames, actions, rewards, success = self._play(self.expert(self.env, rng), observation, info, rng)
        if success is None and self.settings.stop_after_success is not None:
            raise ValueError(f"{self.settings.env} does not tell when its goal is reached: leave --stop-after-success out.")
        if self.actions is not None:
            # A last picture without an action gets zeros, which keep obs, ta and done of one length.
            labels = np.concatenate((actions, np.zeros_like(actions[:1])))[: len(frames)]
            done = np.arange(len(frames)) == len(frames) - 1
            with written_beside(self.actions / f"{episode:05d}.npz") as temporary:
                np.savez_compressed(temporary, obs=frames, ta=labels, done=done)
        name = f"{episode:05d}.mp4"
        row = {
            "file": name,
            "length": len(frames),
            "return": round(sum(rewards), 4),
            "success": "" if success is None else int(success),
        }
        write_video(self.out / name, frames, fps=self.env.metadata.get("render_fps", 15))
        return {**row, **self.columns}

    def _play(
        self, policy: Policy, observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, list[float], bool | None]:
        """
        :return: frames (T + 1, H, W, 3), or T of Procgen, which never draws how an episode ends; actions (T, ...), rewards,
            and whether the goal was reached: None if the environment does not tell
        """
        frames, actions, rewards, success = [newest_picture(observation)], [], [], None
        steps_left = float("inf") if self.settings.max_steps is None else self.settings.max_steps
        while steps_left > 0:
            actions.append(perturbed(policy(observation, info), self.env.action_space, self.settings.noise, rng))
            observation, reward, terminated, truncated, info = self.env.step(actions[-1])
            ended = terminated or truncated
            if not (ended and self.env.spec.id.startswith("procgen/")):  # which shows its last picture twice
                frames.append(newest_picture(observation))
            rewards.append(float(reward))
            steps_left = 0 if ended else steps_left - 1
            reached = goal_reached(self.env, info)
            if reached and not success and self.settings.stop_after_success is not None:
                steps_left = min(steps_left, self.settings.stop_after_success)
            success = reached if success is None else success or reached
        return np.stack(frames), np.stack(actions), rewards, success


def newest_picture(observation: np.ndarray) -> np.ndarray:
    """
    (H, W, 3), from channels last, grey too, or from a stack of pictures with channels first.

    :raises ValueError: it is something else
    """
    shape = np.shape(observation)
    if len(shape) == 3 and shape[-1] in (1, 3):
        return observation if shape[-1] == 3 else observation.repeat(3, axis=-1)
    if len(shape) != 3 or shape[0] % 3:
        raise ValueError(
            f"The environment observes arrays of shape {shape}, expected pictures (H, W, 1), (H, W, 3) or (3 n, H, W)."
        )
    return observation[-3:].transpose(1, 2, 0)


def perturbed(action: Any, space: spaces.Space, noise: float, rng: np.random.Generator) -> np.ndarray:
    """
    ``action`` with Gaussian noise, in parts of half the range; with discrete actions, now and then another one.

    :raises ValueError: it has another shape than the environment's
    """
    if np.shape(action) != space.shape:
        raise ValueError(f"The expert acts by arrays of shape {np.shape(action)}, expected {space.shape}.")
    if isinstance(space, spaces.Box):
        scale = noise * (space.high - space.low) / 2
        return np.clip(action + scale * rng.normal(size=space.shape), space.low, space.high).astype(np.float32)
    assert isinstance(space, spaces.Discrete), space
    return np.asarray(rng.integers(space.n) if rng.random() < noise else action)


def goal_reached(env: gym.Env, info: dict[str, Any]) -> bool | None:
    """Whether Meta-World says so, or the last simulated step of DMControl earned all that a step can; None elsewhere."""
    if "is_success" in info:
        return bool(info["is_success"])
    if env.has_wrapper_attr("physics"):
        simulation: Any = env.unwrapped
        return simulation.task.get_reward(simulation.physics) > 0.999  # point_mass loses a little to the control it needs
    return None


def read_table(path: Path, columns: dict[str, str]) -> dict[str, dict[str, Any]]:
    """
    :return: the rows written so far, by file
    :raises ValueError: they were recorded with other settings than ``columns``
    """
    if not path.exists():
        return {}
    rows = read_csv(path)
    for row in rows:
        # A column that an older table lacks was the environment's own choice.
        other = [f"{n}={row.get(n, '')!r}, not {value!r}" for n, value in columns.items() if row.get(n, "") != value]
        if other:
            raise ValueError(f"{path.parent} was recorded with {'; '.join(other)}. Go on with these or choose another --out.")
    return {row["file"]: row for row in rows}


_recorder: Recorder  # of this process


def _start_process(*arguments: Any) -> None:
    global _recorder
    _recorder = Recorder(*arguments)


def _record(episode: int) -> dict[str, Any]:
    return _recorder(episode)


def record_all(settings: Settings, out: Path, actions: Path | None, n_episodes: int, n_workers: int) -> list[dict[str, Any]]:
    """
    Record the episodes that ``out`` lacks, and keep ``episodes.csv`` up to date: an episode counts once its row is there.

    :return: all rows
    :raises ValueError: ``out`` holds videos recorded with other settings, or these make no environment or no expert
    """
    if actions is not None and out.resolve() in (actions.resolve(), *actions.resolve().parents):
        raise ValueError(f"{actions} lies in {out}, where each episode would be read twice; choose a folder beside it.")
    recorder = Recorder(settings, out, actions)  # shows what is wrong before any process starts
    for folder in filter(None, (out, actions)):
        folder.mkdir(parents=True, exist_ok=True)
    table = out / "episodes.csv"
    rows = read_table(table, recorder.columns)

    def is_missing(name: str) -> bool:
        chunk = actions and actions / f"{name}.npz"
        return f"{name}.mp4" not in rows or not (out / f"{name}.mp4").exists() or bool(chunk and not chunk.exists())

    missing = [i for i in range(n_episodes) if is_missing(f"{i:05d}")]
    with tqdm(total=n_episodes, initial=n_episodes - len(missing), unit="episode") as bar:
        for row in played(recorder, missing, min(n_workers, len(missing))):
            rows[row["file"]] = row
            write_csv(table, sorted(rows.values(), key=lambda row: row["file"]))
            bar.set_postfix({"return": f"{row['return']:.1f}", "frames": row["length"]}, refresh=False)
            bar.update()
    recorder.env.close()
    return list(rows.values())


def played(recorder: Recorder, episodes: list[int], n_workers: int) -> Iterator[dict[str, Any]]:
    """The rows of ``episodes``, in the order in which they end."""
    if n_workers <= 1:
        yield from map(recorder, episodes)
        return
    # Fresh processes: a fork would inherit threads and graphics contexts.
    arguments = recorder.settings, recorder.out, recorder.actions
    with multiprocessing.get_context("spawn").Pool(n_workers, _start_process, arguments) as pool:
        yield from pool.imap_unordered(_record, episodes)


def main() -> None:
    defaults = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", nargs="?", default=defaults.env, help="a Gymnasium id, as [MODULE:]ID; default: %(default)s")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--episodes", type=positive, default=400)
    parser.add_argument("--expert", help="MODEL.zip, or MODULE:FUNCTION of the observation; default: the environment's")
    parser.add_argument("--algo", help="class of MODEL.zip: sac, ppo, ..., bcvlr")
    parser.add_argument("--sample", action="store_true", help="draw the model's actions instead of taking the most likely one")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument(
        "--noise",
        type=share,
        default=defaults.noise,
        help="standard deviation of what is added to actions, in parts of half their range; for discrete actions the "
        "probability of a random one. The videos then also show how the expert recovers. Default: %(default)s",
    )
    parser.add_argument("--max-steps", type=positive, help="end episodes after so many steps of the agent")
    parser.add_argument(
        "--stop-after-success", type=not_negative, metavar="N", help="end N steps after the goal is first reached"
    )
    parser.add_argument("--image-size", type=positive, help="side of the pictures; default: the environment's")
    parser.add_argument("--action-repeat", type=positive, help="simulated steps of an action; default: the environment's")
    parser.add_argument("--fast-rendering", action=argparse.BooleanOptionalAction, help="default: the environment's")
    parser.add_argument("--camera", help="name or number, several as close+topview; default: the environment's")
    parser.add_argument("--actions", type=Path, metavar="FOLDER", help="also write .npz chunks with actions here")
    parser.add_argument(
        "--workers", type=positive, default=len(os.sched_getaffinity(0)), help="processes; default: one a core"
    )
    args = parser.parse_args()
    if (args.sample or args.algo) and not (args.expert or "").endswith(".zip"):
        parser.error("--algo and --sample say how a model acts, expected --expert MODEL.zip with them")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of each process: there is one a core
    settings = Settings(**{name: getattr(args, name) for name in asdict(defaults)})
    with told_in_a_line((ValueError, OSError, ImportError, gym.error.Error)):
        rows = record_all(settings, args.out, args.actions, args.episodes, args.workers)
    returns, successes = ([float(row[name]) for row in rows if row[name] != ""] for name in ("return", "success"))
    known = f", {np.mean(successes):.0%} reached the goal" if successes else ""
    n_frames = sum(int(row["length"]) for row in rows)
    print(f"{len(rows)} episodes, {n_frames} frames, mean return {np.mean(returns):.2f}{known}")


if __name__ == "__main__":
    main()
