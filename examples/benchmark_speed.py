"""
How fast each stage is: ms a gradient step, ms to act, seconds of a whole run, peak memory; a table and a csv.

    python examples/benchmark_speed.py                                # the defaults, on the GPU if there is one
    python examples/benchmark_speed.py --preset paper --quick --set '{"mixed_precision": true}'
    python examples/benchmark_speed.py --stage act --n-envs 1 64       # latency of predict
    python examples/benchmark_speed.py --stage imitation --batch-sizes 16 32 64 128 256 512
    python examples/benchmark_speed.py --video-frames 10000 100000 1000000    # memory-mapped: should be flat
    python examples/benchmark_speed.py --stage dynamics --profile      # which operators or kernels take the time

``--reference FOLDER`` times another implementation in the same run: the folder holds a ``steps.py`` with
``make_step(stage, batch_size, device)``, which returns a function that makes one step of this stage, or None.

Pictures are noise, the environment is Procgen's bigfish: speed does not depend on what is learned. Each figure is the median
of several repetitions in one process, after a warm-up; compare only figures of one run on one machine.
"""

import argparse
import importlib.util
import itertools
import json
import platform
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import sb3_bcvlr  # isort: skip  # noqa: F401  before stable_baselines3, to keep gym's notice quiet
import numpy as np
import torch as th
from command_line import json_object, positive, told_in_a_line
from quickstart import choose_convolutions, peak_gpu_memory
from stable_baselines3.common.logger import Logger
from torch.profiler import ProfilerActivity, profile
from train import model_arguments

from sb3_bcvlr import BCVLR, VideoDataset
from sb3_bcvlr.common.files import write_csv
from sb3_bcvlr.envs import make_procgen

N_OPERATORS = 25  # of a stage that a profile names
STAGES = ("encoder", "dynamics", "imitation", "online", "act", "step")
BATCH_SIZES = {  # the argument that sets a stage's batch size
    "encoder": "encoder_batch_size",
    "dynamics": "dynamics_batch_size",
    "imitation": "imitation_batch_size",
    "online": "batch_size",
}


def work(model: BCVLR, stage: str, n_steps: int) -> None:
    """``n_steps`` of a stage, as training makes them: sampling, labelling and statistics included."""
    if stage == "encoder":
        model.pretrain_encoder_steps = n_steps
        model._pretrain_encoder(progress_bar=False)
    elif stage == "dynamics":
        model.pretrain_dynamics_steps = n_steps
        model._pretrain_dynamics(progress_bar=False)
    elif stage == "imitation":
        model._imitate_videos(n_steps, model.latent_policy_optimizer)
    elif stage == "online":
        model._finetune(model.replay_buffer, n_steps, model.batch_size)
    elif stage == "act":
        for _ in range(n_steps):
            model.predict(model._last_obs)
    else:
        actions = np.array([model.action_space.sample() for _ in range(model.n_envs)])
        for _ in range(n_steps):
            model.env.step(actions)


def milliseconds(run: Callable[[int], None], device: th.device, n_steps: int, n_repeats: int) -> tuple[float, float]:
    """
    A step's time, without what a stage costs however long it is: two lengths are timed and their difference counts.

    :param run: makes so many steps
    :return: by the clock, and of all CPU cores together, which other programs on the machine disturb less
    """

    def seconds(n: int) -> np.ndarray:
        synchronize(device)
        start = np.array((time.perf_counter(), time.process_time()))
        run(n)
        synchronize(device)
        return np.array((time.perf_counter(), time.process_time())) - start

    seconds(1)
    differences = [seconds(2 * n_steps) - seconds(n_steps) for _ in range(n_repeats)]
    wall, cpu = 1000 * np.median(differences, axis=0) / n_steps
    return float(wall), float(cpu)


def operator_times(run: Callable[[int], None], device: th.device, n_steps: int) -> list[dict[str, float | str]]:
    """
    Which operators, on a GPU kernels, a step's time goes to; as in ``milliseconds`` without what a stage costs once.

    :return: name, ms and calls a step, the slowest first
    """
    is_gpu = device.type == "cuda"

    def totals(n: int) -> dict[str, np.ndarray]:
        with profile(activities=[ProfilerActivity.CUDA if is_gpu else ProfilerActivity.CPU]) as profiler:
            run(n)
            synchronize(device)
        return {
            event.key: np.array((event.self_device_time_total if is_gpu else event.self_cpu_time_total, event.count))
            for event in profiler.key_averages()
        }

    totals(1)
    shorter, longer = totals(n_steps), totals(2 * n_steps)
    steps = {name: (longer[name] - shorter.get(name, 0)) / n_steps for name in longer}
    rows = [{"operator": name, "ms": round(us / 1000, 4), "calls": round(calls, 2)} for name, (us, calls) in steps.items()]
    return sorted(rows, key=lambda row: -row["ms"])


def reference_run(folder: Path, stage: str, batch_size: int, device: th.device) -> Callable[[int], None] | None:
    """The other implementation's steps of this stage, as ``milliseconds`` wants them; None if it has none."""
    spec = importlib.util.spec_from_file_location("reference_steps", folder / "steps.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    step = module.make_step(stage, batch_size, device)

    def run(n_steps: int) -> None:
        for _ in range(n_steps):
            step()

    return None if step is None else run


def synchronize(device: th.device) -> None:
    if device.type == "cuda":
        th.cuda.synchronize(device)


def make_model(args: argparse.Namespace, batch_size: int | None, n_envs: int, n_frames: int) -> BCVLR:
    """A model whose replay holds steps and whose videos are noise in episodes of 100 frames."""
    kwargs = model_arguments("procgen/bigfish", args.preset, args.set)
    if batch_size is not None:
        kwargs |= dict.fromkeys(BATCH_SIZES.values(), batch_size)
    rng = np.random.default_rng(0)
    episodes = (rng.integers(256, size=(100, 64, 64, 3), dtype=np.uint8) for _ in range(n_frames // 100))
    model = BCVLR(
        make_procgen("bigfish", n_envs, 0),
        VideoDataset(episodes, n_history=2, cache_dir=args.cache_dir, seed=0),
        device=args.device,
        seed=0,
        **kwargs | {"learning_starts": 10**9, "rollout_steps": 4 * n_envs, "gradient_steps": 0},
    )
    choose_convolutions(args.fast_convolutions)
    model.set_logger(Logger(None, []))
    model.pretrained = True
    model.learn(max(8 * n_envs, 1024))  # random steps, for the replay
    model.policy.set_training_mode(True)
    return model


def whole_run(times: dict[str, float], n_envs: int, args: argparse.Namespace) -> float:
    """Seconds of 100,000 environment steps with all updates, from the times of the stages."""
    model = BCVLR(make_procgen("bigfish", n_envs, 0), **model_arguments("procgen/bigfish", args.preset, args.set))
    n_cycles = -(-100_000 // (model.train_freq.frequency * n_envs))
    counts = {
        "encoder": model.pretrain_encoder_steps,
        "dynamics": model.pretrain_dynamics_steps,
        "imitation": model.pretrain_imitation_steps + n_cycles * model.imitation_steps,
        "online": n_cycles * model.gradient_steps,
        "act": 100_000 // n_envs,
        "step": 100_000 // n_envs,
    }
    return sum(times[stage] * n for stage, n in counts.items()) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--preset", choices=("default", "paper"), default="default")
    parser.add_argument("--set", type=json_object, default={}, metavar="JSON", help="other hyper-parameters of BCVLR")
    parser.add_argument("--stage", choices=STAGES, nargs="+", default=STAGES)
    parser.add_argument("--batch-sizes", type=positive, nargs="+", default=[None], help="default: the preset's")
    parser.add_argument("--n-envs", type=positive, nargs="+", default=[64])
    parser.add_argument("--video-frames", type=positive, nargs="+", default=[10_000])
    parser.add_argument("--cache-dir", type=Path, help="of the decoded noise; default: the user's cache")
    parser.add_argument("--reference", type=Path, metavar="FOLDER", help="with a steps.py: another implementation to time")
    parser.add_argument("--quick", action="store_true", help="fewer steps and repetitions")
    parser.add_argument("--profile", action="store_true", help="write OUT_profile.csv as well: operators of each stage")
    parser.add_argument("--fast-convolutions", action="store_true", help="on a GPU, which then do not repeat to the last bit")
    parser.add_argument("--out", type=Path, default=Path("outputs/speed.csv"))
    args = parser.parse_args()
    if args.reference is not None and not (args.reference / "steps.py").exists():
        parser.error(f"there is no {args.reference}/steps.py, which makes the steps of another implementation")
    n_repeats = 3 if args.quick else 5
    args.out.parent.mkdir(parents=True, exist_ok=True)

    rows, operators = [], []
    for batch_size, n_envs, n_frames in itertools.product(args.batch_sizes, args.n_envs, args.video_frames):
        with told_in_a_line():
            model = make_model(args, batch_size, n_envs, n_frames)
        is_gpu = model.device.type == "cuda"
        # On a GPU the first four steps are not yet what the others are, and labels come in groups of 1,024.
        n_steps = 16 if is_gpu else 3 if args.quick else 20
        device = th.cuda.get_device_name(model.device) if is_gpu else platform.processor() or "cpu"
        about = {"device": device, "threads": th.get_num_threads(), "torch": th.__version__, "preset": args.preset}
        about["set"] = json.dumps(args.set)
        times = {}
        for stage in args.stage:
            times[stage], cpu_ms = milliseconds(partial(work, model, stage), model.device, n_steps, n_repeats)
            size = getattr(model, BATCH_SIZES[stage]) if stage in BATCH_SIZES else n_envs
            row = {
                "stage": stage,
                "ms": round(times[stage], 3),
                "cpu_ms": round(cpu_ms, 3),
                "batch_size": size,
                "n_envs": n_envs,
                "video_frames": n_frames,
            }
            if args.reference is not None:
                run = reference_run(args.reference, stage, size, model.device)
                reference_ms = milliseconds(run, model.device, n_steps, n_repeats)[0] if run else float("nan")
                row |= {"reference_ms": round(reference_ms, 3), "ratio": round(reference_ms / times[stage], 3)}
            row["peak_rss_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)
            rows.append({**row, **peak_gpu_memory(model.device), **about})
            print(
                f"{stage:10} {times[stage]:9.2f} ms   batch {size:4}   {n_envs:3} environments   {n_frames} frames", flush=True
            )
            write_csv(args.out, rows)
            if args.profile:
                slowest = operator_times(partial(work, model, stage), model.device, n_steps)[:N_OPERATORS]
                operators += [{"stage": stage, "batch_size": size, **row} for row in slowest]
                print(
                    *(f"    {row['ms']:9.3f} ms {row['calls']:8.1f} calls  {row['operator'][:80]}" for row in slowest),
                    sep="\n",
                )
                write_csv(args.out.with_stem(f"{args.out.stem}_profile"), operators)
        if set(times) == set(STAGES) and batch_size is None:
            print(f"a whole run of 100,000 steps: {whole_run(times, n_envs, args):.0f} s ({device})")


if __name__ == "__main__":
    main()
