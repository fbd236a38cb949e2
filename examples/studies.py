"""
The paper's studies, each one command and one csv:

    python examples/studies.py ablations foraging --videos examples/videos/foraging
    python examples/studies.py video-amount dmcontrol/reacher_hard --videos data/reacher --amounts 5000 20000 50000 100000
    python examples/studies.py offline metaworld/reach --videos data/reach --labelled data/reach-labelled
    python examples/studies.py multi-task procgen/bigfish procgen/maze procgen/dodgeball --pretrain-on 2 \\
        --videos data/bigfish data/maze data/dodgeball

- ablations, of a preset that has all of the paper's stages (``--preset paper``, or foraging): the full method; p as
  pre-trained; f as it was initialized; no quantizer; f tuned too, offline and online.
- video-amount: the full method from so many frames of the videos, whole episodes of them.
- offline: no interaction: d, p and pi learn from labelled expert transitions (LAPO's chunks with ``ta``), 10,000 by default,
  in ``--align-updates`` steps of p and d and ``--imitation-updates`` of pi.
- multi-task: one pre-training on the videos of the first ``--pretrain-on`` tasks, then each task learns online alone, also
  those that pre-training has not seen.

Every row holds the return on fresh episodes of a model that learned with ``--steps`` environment steps (offline: none), and of
random play.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sb3_bcvlr  # isort: skip  # noqa: F401  before stable_baselines3, to keep gym's notice quiet
import numpy as np
from command_line import json_object, positive, told_in_a_line
from quickstart import add_row, eval_seed, evaluate, evaluate_random, load_videos
from stable_baselines3.common.vec_env import VecEnv
from train import MAKERS, PRESETS, known_task, model_arguments

from sb3_bcvlr import BCVLR, VideoDataset
from sb3_bcvlr.common.video_io import find_videos
from sb3_bcvlr.hyperparams import merged

ABLATIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "idm not fine-tuned": dict(idm_learning_rate=0.0, tune_encoder=[]),
    "encoder not pre-trained": dict(pretrain_encoder_steps=0),
    "no quantizer": dict(policy_kwargs=dict(quantizer_kwargs=dict(enabled=False))),
    "encoder tuned with the dynamics": dict(tune_encoder=["dynamics"]),
    "encoder tuned online": dict(tune_encoder=["online"]),
}


def labelled_episodes(folder: Path, n_transitions: int, n_stack: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Observations (T + 1, n_stack * C, H, W) and actions (T, ...) of LAPO's chunks, until there are enough."""
    for chunk in find_videos(folder):
        with np.load(chunk) as arrays:
            frames, actions, ends = arrays["obs"].transpose(0, 3, 1, 2), arrays["ta"], np.flatnonzero(arrays["done"]) + 1
        for start, end in zip((0, *ends[:-1]), ends, strict=True):
            if end - start < 2:
                continue
            n = min(end - start - 1, n_transitions)
            times = np.maximum(np.arange(n + 1)[:, None] + np.arange(1 - n_stack, 1), 0) + start
            yield frames[times].reshape(n + 1, -1, *frames.shape[2:]), actions[start : start + n]
            n_transitions -= n
            if n_transitions == 0:
                return


def make_env(task: str, n_envs: int, seed: int) -> VecEnv:
    suite, _, name = task.partition("/")
    with told_in_a_line():
        return MAKERS[suite](name, n_envs, seed)


def make_model(env: VecEnv, videos: VideoDataset | list[Path], kwargs: dict[str, Any]) -> BCVLR:
    with told_in_a_line():
        videos = videos if isinstance(videos, VideoDataset) else load_videos(videos, env, kwargs["seed"])
        return BCVLR(env, videos, **kwargs)


# Each study yields the name of a variant, the task and the model that has learned.
Variants = Iterator[tuple[str, str, BCVLR]]


def ablations(args: argparse.Namespace, seed: int, kwargs: dict[str, Any]) -> Variants:
    env = make_env(args.tasks[0], args.n_envs, seed)
    for name, change in ABLATIONS.items():
        model = make_model(env, args.videos, merged(kwargs, change))
        yield name, args.tasks[0], model.learn(args.steps, progress_bar=True)


def video_amount(args: argparse.Namespace, seed: int, kwargs: dict[str, Any]) -> Variants:
    env = make_env(args.tasks[0], args.n_envs, seed)
    with told_in_a_line():
        videos = load_videos(args.videos, env, seed)
        if min(args.amounts) * videos.n_episodes < videos.n_frames:
            raise ValueError(
                f"--amounts {min(args.amounts)} is less than an episode: {videos.n_episodes} of them hold {videos.n_frames} "
                "frames."
            )
    for n_frames in args.amounts:
        part = videos if n_frames >= videos.n_frames else videos.split(1 - n_frames / videos.n_frames)[0]
        part.seed(seed)
        yield f"{n_frames} frames", args.tasks[0], make_model(env, part, kwargs).learn(args.steps, progress_bar=True)


def offline(args: argparse.Namespace, seed: int, kwargs: dict[str, Any]) -> Variants:
    env = make_env(args.tasks[0], args.n_envs, seed)
    model = make_model(env, args.videos, kwargs)
    episodes = labelled_episodes(args.labelled, args.transitions, model.videos.n_stack)
    model.align(episodes, args.align_updates, args.imitation_updates, progress_bar=True)
    yield f"{args.transitions} transitions", args.tasks[0], model


def multi_task(args: argparse.Namespace, seed: int, kwargs: dict[str, Any]) -> Variants:
    envs = [make_env(task, args.n_envs, seed) for task in args.tasks]
    with told_in_a_line():
        datasets = [load_videos([folder], env, seed) for folder, env in zip(args.videos, envs, strict=True)]
    pretrained = args.out.with_suffix(".pretrained.zip")
    make_model(envs[0], args.videos[: args.pretrain_on], kwargs).pretrain(progress_bar=True).save(pretrained)
    for number, (task, env, videos) in enumerate(zip(args.tasks, envs, datasets, strict=True)):
        model = BCVLR.load(pretrained, env=env, videos=videos)
        yield "seen" if number < args.pretrain_on else "unseen", task, model.learn(args.steps, progress_bar=True)


STUDIES = {"ablations": ablations, "video-amount": video_amount, "offline": offline, "multi-task": multi_task}


def judge(model: BCVLR, task: str, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The model and random play in fresh episodes, each in its own."""
    env = make_env(task, min(args.n_envs, args.eval_episodes), eval_seed(seed))
    random = evaluate_random(env, args.eval_episodes)
    result = evaluate(model, env, args.eval_episodes) | random
    env.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("tasks", nargs="+", type=known_task, help="suite/task, or foraging; several for multi-task alone")
    parser.add_argument("--videos", type=Path, nargs="+", required=True, help="a folder for each task")
    parser.add_argument("--labelled", type=Path, help="offline: a folder of chunks with actions")
    parser.add_argument("--transitions", type=positive, default=10_000, help="offline: how many of them")
    parser.add_argument("--align-updates", type=positive, default=1_000, help="offline: of p and d")
    parser.add_argument("--imitation-updates", type=positive, default=10_000, help="offline: of pi")
    parser.add_argument(
        "--amounts", type=positive, nargs="+", default=[5_000, 20_000, 50_000, 100_000], help="video-amount: frames"
    )
    parser.add_argument("--pretrain-on", type=positive, default=1, help="multi-task: the first so many tasks")
    parser.add_argument("--steps", type=positive, default=100_000, help="environment steps")
    parser.add_argument("--n-envs", type=positive, default=64)
    parser.add_argument("--eval-episodes", type=positive, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--set", type=json_object, default={}, metavar="JSON", help="other hyper-parameters of BCVLR")
    parser.add_argument("--out", type=Path, help="default: outputs/STUDY.csv")
    args = parser.parse_args()
    if len(args.tasks) != len(args.videos) or (len(args.tasks) > 1) != (args.study == "multi-task"):
        parser.error("expected one task and its --videos, or for multi-task several and as many folders")
    if args.study == "offline" and args.labelled is None:
        parser.error("offline needs --labelled FOLDER")
    args.out = args.out or Path("outputs") / f"{args.study}.csv"

    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        kwargs = {**model_arguments(args.tasks[0], args.preset, args.set), "seed": seed}
        start = time.perf_counter()
        for variant, task, model in STUDIES[args.study](args, seed, kwargs):
            seconds = time.perf_counter() - start
            row = {"study": args.study, "variant": variant, "task": task, "seed": seed, "env_steps": model.num_timesteps}
            row |= {**judge(model, task, args, seed), "video_frames": model.videos.n_frames, "seconds": seconds}
            add_row(rows, row, args.out)
            start = time.perf_counter()


if __name__ == "__main__":
    main()
