"""
Learn a Procgen game from videos, with the defaults or the paper's networks.

    python examples/train_procgen.py fruitbot --videos data/fruitbot
    python examples/train_procgen.py bigfish --videos data/bigfish --preset paper     # for a GPU

The folder of videos holds .mp4 files and ``episodes.csv`` (file, length, return). Where it does not exist and ``--experts``
names a folder with a ``record.py``, that records it first.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import sb3_bcvlr  # isort: skip  before stable_baselines3, to keep gym's notice quiet
from quickstart import run

from sb3_bcvlr.envs import make_procgen
from sb3_bcvlr.envs.registration import PROCGEN_GAMES

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("game", choices=PROCGEN_GAMES)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--experts", type=Path, help="folder with a record.py that plays the game")
    parser.add_argument("--episodes", type=int, default=64, help="how many to record")
    parser.add_argument("--out", type=Path, help="default: outputs/GAME")
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps")
    parser.add_argument("--n-envs", type=int, default=64)
    parser.add_argument("--eval-episodes", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", choices=["default", "paper"], default="default")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=NUMBER", help="other hyper-parameters of BCVLR")
    args = parser.parse_args()

    if not args.videos.exists():
        if args.experts is None:
            parser.error(f"there is no folder {args.videos}; give --videos FOLDER, or --experts FOLDER to record them")
        record = [sys.executable, args.experts / "record.py", args.game, "--episodes", args.episodes, "--out", args.videos]
        subprocess.run(list(map(str, record)), check=True)
    model_kwargs = sb3_bcvlr.hyperparams.get("bcvlr", "procgen") if args.preset == "paper" else {}
    for assignment in args.set:
        name, number = assignment.split("=")
        model_kwargs[name] = float(number) if "." in number or "e" in number else int(number)
    run(
        lambda n_envs, seed: make_procgen(args.game, n_envs, seed),
        args.videos,
        args.out or Path("outputs") / args.game,
        args.steps,
        args.n_envs,
        args.eval_episodes,
        args.seed,
        **model_kwargs,
    )
