"""
Learn a task of Procgen, DMControl or Meta-World from videos, with the defaults, a small preset or the paper's networks.

    python examples/train.py procgen/fruitbot --videos data/fruitbot
    python examples/train.py metaworld/drawer-open --videos data/drawer-open --preset small --n-envs 4 --steps 10000 \\
        --env '{"action_repeat": 5, "max_episode_steps": 200}'     # videos recorded with --action-repeat 5
    python examples/train.py procgen/bigfish --videos data/bigfish --preset paper     # for a GPU

The videos may be of any size. Beside them, ``episodes.csv`` (file, length, return) says what they return, as
``record_videos.py`` writes it; without it the results stand alone. Where there is no such folder and ``--experts`` names one
with a ``record.py`` for Procgen, that records it first. Steps are actions of the agent: at action repeat 2, 50,000 of them are
the paper's 100,000 frames on DMControl.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sb3_bcvlr  # isort: skip  # noqa: F401  before stable_baselines3, to keep gym's notice quiet
from command_line import json_object, positive
from quickstart import make_foraging, run
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from sb3_bcvlr import hyperparams
from sb3_bcvlr.common.checks import check_task
from sb3_bcvlr.envs import make_dmcontrol, make_metaworld, make_procgen
from sb3_bcvlr.envs.registration import DMCONTROL_TASKS, METAWORLD_TASKS, PROCGEN_GAMES

MAKERS: dict[str, Callable[..., VecEnv]] = {  # of task, number of environments and seed
    "procgen": make_procgen,
    "dmcontrol": make_dmcontrol,
    "metaworld": make_metaworld,
    "foraging": lambda task, n_envs, seed, **kwargs: make_foraging(n_envs, seed, **kwargs),
}
TASKS = {
    "procgen": PROCGEN_GAMES,
    "dmcontrol": DMCONTROL_TASKS,
    "metaworld": tuple(task.removesuffix("-v3") for task in METAWORLD_TASKS),
    "foraging": ("foraging",),
}
PRESETS = "default", "small", "paper"  # the constructor's; hyperparams' SUITE_small, for fewer steps; the published


def model_arguments(task: str, preset: str, changes: dict[str, Any]) -> dict[str, Any]:
    """
    :param task: suite/task
    :param preset: one of ``PRESETS``
    :return: ``changes`` over the preset; the foraging world has one alone
    """
    suite, _, name = task.partition("/")
    suites = {"default": None, "small": f"{suite}_small", "paper": suite}
    chosen = suite if suite == "foraging" else suites[preset]
    try:
        arguments = hyperparams.get("bcvlr", chosen, name) if chosen else {}
    except ValueError as error:
        raise SystemExit(f"{suite} has no preset {preset!r}: leave --preset out, for the defaults.") from error
    return hyperparams.merged(arguments, changes)


def known_task(text: str) -> str:
    """suite/task, for argparse, or what Gymnasium calls it; the foraging world has one task and stands alone."""
    suite, _, task = re.sub(r"-v\d+$", "", text).partition("/")
    if suite not in MAKERS or (not task and suite != "foraging"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no suite/task with a suite of {', '.join(MAKERS)}; foraging stands alone"
        )
    try:
        check_task(task or suite, TASKS[suite], suite)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return f"{suite}/{task}" if task else suite


def environment_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What ``--env`` and ``--processes`` say."""
    if not args.processes:
        return args.env
    if not args.task.startswith(("dmcontrol/", "metaworld/")):
        raise SystemExit(f"--processes is for dmcontrol and metaworld; {args.task} is fast without: leave it out.")
    return {**args.env, "vec_env_cls": SubprocVecEnv}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=known_task, help="suite/task, the suite one of " + ", ".join(MAKERS))
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--experts", type=Path, help="folder with a record.py that plays Procgen")
    parser.add_argument("--episodes", type=positive, default=64, help="how many to record")
    parser.add_argument("--out", type=Path, help="default: outputs/TASK")
    parser.add_argument("--steps", type=positive, default=100_000, help="environment steps")
    parser.add_argument("--n-envs", type=positive, default=64)
    parser.add_argument("--eval-episodes", type=positive, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--env", type=json_object, default={}, metavar="JSON", help="further arguments of the environment")
    parser.add_argument("--processes", action="store_true", help="give each environment of MuJoCo a process of its own")
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--set", type=json_object, default={}, metavar="JSON", help="other hyper-parameters of BCVLR")
    parser.add_argument("--fast-convolutions", action="store_true", help="on a GPU, which then do not repeat to the last bit")
    args = parser.parse_args()

    suite, _, task = args.task.partition("/")
    if not args.videos.exists():
        if args.experts is None or suite != "procgen":
            parser.error(
                f"there is no folder {args.videos}: record one with record_videos.py, or Procgen with --experts FOLDER"
            )
        if not (args.experts / "record.py").exists():
            parser.error(
                f"there are neither videos in {args.videos} nor {args.experts}/record.py to record some: give a folder of an "
                "expert's videos (--videos, in make VIDEOS=) or of experts (--experts, EXPERTS=)"
            )
        unfinished = args.videos.with_name(f".{args.videos.name}")  # a recording that is cut short is none
        shutil.rmtree(unfinished, ignore_errors=True)
        record = [sys.executable, args.experts / "record.py", task, "--episodes", args.episodes, "--out", unfinished]
        if subprocess.run(list(map(str, record))).returncode:
            parser.error(f"{args.experts}/record.py recorded no {task}: what it says stands above")
        unfinished.rename(args.videos)
    env_kwargs = environment_arguments(args)
    run(
        lambda n_envs, seed: MAKERS[suite](task, min(n_envs, args.n_envs), seed, **env_kwargs),
        args.videos,
        args.out or Path("outputs") / (task or suite),
        args.steps,
        args.n_envs,
        args.eval_episodes,
        args.seed,
        args.fast_convolutions,
        **model_arguments(args.task, args.preset, args.set),
    )
