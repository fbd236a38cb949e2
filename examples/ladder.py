"""
When it does not learn: climb five rungs, from cloning true actions to the full method. The first that falls shows the fault.

    python examples/ladder.py procgen/fruitbot --labelled data/fruitbot-labelled --held-out data/fruitbot-held-out

Both folders hold LAPO's .npz chunks with the expert's actions (``ta``), the second of other episodes. True actions serve
this script alone. Each rung trains the same latent policy pi for the same number of updates, and is judged by the return of
the policy on fresh levels, and by its score on the held-out windows: accuracy with actions of equal effect merged, or R2 if
actions are continuous.

0. d, and p with it, on random steps of the environment: can latent actions be read at all? (pi is not trained)
1. pi and d clone the true actions: what this network can do with these videos.
2. pi and d clone the labels of an inverse model p + d, trained on true pairs: what inverse dynamics cost.
3. pi clones z, p and d trained on true pairs: what cloning latent actions instead of labels costs.
4. the same with p frozen after pre-training: what the latent actions are worth before any action is seen.
5. the full method, its actions from its own steps in the environment.

``--true-dynamics N`` first trains a new world model for N steps on the true actions instead of z: what shuffling actions costs
that one says how much a world model of this size can learn to care for actions at all.
"""

import argparse
import json
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import sb3_bcvlr  # isort: skip  # noqa: F401  before stable_baselines3, to keep gym's notice quiet
import numpy as np
import torch as th
from command_line import json_object, not_negative, positive, told_in_a_line
from gymnasium import spaces
from quickstart import (
    LearningCurve,
    add_row,
    choose_convolutions,
    eval_seed,
    evaluate,
    evaluate_random,
    load_videos,
    peak_gpu_memory,
)
from stable_baselines3.common.callbacks import EvalCallback
from torch.nn import functional as F
from tqdm import trange
from train import MAKERS, PRESETS, environment_arguments, known_task, model_arguments

from sb3_bcvlr import BCVLR, VideoDataset
from sb3_bcvlr.common.files import write_csv
from sb3_bcvlr.common.video_imitation import optimize
from sb3_bcvlr.common.video_io import find_videos
from sb3_bcvlr.envs.procgen import action_groups


def read_actions(folder: Path, dataset: VideoDataset) -> th.Tensor:
    """
    (len(dataset), 1) or (len(dataset), action_dim): the true action a_t of each window, scaled as the expert gave it.

    :raises ValueError: the videos are no chunks with actions
    """
    chunks = find_videos(folder)
    if any(chunk.suffix.lower() != ".npz" or "ta" not in np.load(chunk) for chunk in chunks):
        raise ValueError(f"{folder} holds no actions, expected .npz chunks with ta: record_videos.py --actions FOLDER")
    actions = np.concatenate([np.load(chunk)["ta"] for chunk in chunks])[dataset.frame_numbers(np.arange(len(dataset)))[:, -2]]
    return th.as_tensor(actions.astype(np.float32 if actions.ndim > 1 else np.int64)).view(len(dataset), -1)


class Ladder:
    """
    :param model: pre-trained on the videos; every rung starts from a copy of its policy
    :param actions: true actions of its videos' windows
    :param held_out: windows of other episodes
    :param held_out_actions: their true actions
    :param groups: (n_actions,) of discrete actions, those of equal effect share a number
    """

    def __init__(
        self,
        model: BCVLR,
        actions: th.Tensor,
        held_out: VideoDataset,
        held_out_actions: th.Tensor,
        groups: np.ndarray | None = None,
    ):
        model._prepare_to_learn()
        self.model, self.held_out = model, held_out.to(model.device)
        self.actions, self.held_out_actions = actions.to(model.device), held_out_actions.to(model.device)
        self.groups = None if groups is None else th.as_tensor(groups, device=model.device)
        self.policy = model.policy
        self.start = deepcopy(model.get_parameters())

    def restart(self) -> None:
        """Forget the last rung: networks and optimizers as pre-trained."""
        self.model.set_parameters(self.start, device=self.model.device)
        self.policy.n_neighbors = self.model.n_neighbors
        self.model._n_updates = 0  # else it would make no random steps
        self.policy.set_training_mode(True)
        self.policy.world_model.eval()

    def random_steps(self, n_steps: int, n_updates: int) -> None:
        """p and d as the full method would train them on its random steps."""
        self.model.learning_starts = n_steps
        self.model.train_freq = self.model.train_freq._replace(frequency=n_steps // self.model.n_envs)
        steps, self.model.gradient_steps = self.model.gradient_steps, 0
        self.model.learn(n_steps)
        self.model.gradient_steps = steps
        self.model._current_progress_remaining = 1.0  # for schedules of learning rates
        self.model._finetune(self.model.replay_buffer, n_updates, self.model.batch_size)

    def clone_actions(self, labels: th.Tensor, n_steps: int) -> None:
        """pi and d by the action loss against ``labels``, one for each window; d reads what pi says itself."""
        self.policy.n_neighbors = 0
        learned = [*self.policy.latent_policy.parameters(), *self.policy.action_decoder.requires_grad_(True).parameters()]
        optimizer = th.optim.Adam(learned, self.model.imitation_learning_rate, fused=True)
        for _ in trange(n_steps, desc="clone actions"):
            indices = self.model.videos.sample_indices(self.model.imitation_batch_size)
            with self.model._autocast():
                latent_actions = self.model._shifted_imitation(self.model.videos.observations(indices))
                loss, _ = self.policy.action_loss(latent_actions, labels[indices])
            optimize(optimizer, loss)
            self.model._average_latent_policy()

    def true_dynamics(self, n_steps: int) -> dict[str, float]:
        """w from its start, reading true actions: its errors on held-out windows over copying, and over shuffled actions."""
        for module in self.policy.world_model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        self.policy.world_model.requires_grad_(True).train()
        latent_dim = self.policy.idm.quantizer.latent_dim
        n_inputs = int(self.groups.max()) + 1 if self.groups is not None else self.actions.shape[1]
        embedding = th.nn.Linear(n_inputs, latent_dim, device=self.model.device)
        learned = [*self.policy.world_model.parameters(), *embedding.parameters()]
        optimizer = th.optim.AdamW(learned, self.model.dynamics_learning_rate, fused=True)

        def embed(actions: th.Tensor) -> th.Tensor:
            return embedding(F.one_hot(self.groups[actions[:, 0]], n_inputs).float() if self.groups is not None else actions)

        for _ in trange(n_steps, desc="true dynamics"):
            videos = self.model.videos.sample(self.model.dynamics_batch_size)
            with self.model._autocast():
                features = self.policy.encode(videos.frames)
                actions = embed(self.actions[videos.indices])
                loss = self.policy.prediction_loss(features[:, :-1], actions, features[:, -1])
            optimize(optimizer, loss)
        self.policy.world_model.requires_grad_(False).eval()
        with th.no_grad():
            sample = self.held_out.sample(1024)
            features, actions = self.policy.encode(sample.frames), embed(self.held_out_actions[sample.indices])
        errors = self.policy.world_model_errors(features, actions)
        return {f"true_{name}": errors[name] for name in ("error_to_copying", "error_to_shuffled")}

    def clone_latent_actions(self, n_steps: int) -> None:
        optimizer = th.optim.Adam(self.policy.latent_policy.parameters(), self.model.imitation_learning_rate, fused=True)
        self.model._imitate_videos(n_steps, optimizer, progress_bar=True)

    def align(self, n_steps: int, train_idm: bool) -> None:
        """d, and if asked what learns with it online, on true pairs of the videos: the method's steps at their first rates."""
        model, rate = self.model, self.model.idm_learning_rate
        if not train_idm:
            model.idm_learning_rate = 0.0  # f's too
        model._current_progress_remaining = 1.0
        model._start_log("align")
        model._finetune(self, n_steps, model.batch_size)
        model.idm_learning_rate = rate

    def sample(self, batch_size: int) -> tuple[th.Tensor, th.Tensor]:
        """Windows and true actions, as the replay gives them."""
        videos = self.model.videos.sample(batch_size)
        return videos.frames, self.actions[videos.indices]

    @th.no_grad()
    def read_labels(self) -> th.Tensor:
        """The action that p + d reads in each window of the videos, shaped as the true ones."""
        latent_actions = self.policy.standardized(self.model._label_videos(np.arange(len(self.model.videos))))
        decoded = self.policy.action_decoder(latent_actions)
        return decoded.argmax(1, keepdim=True) if self.policy.is_discrete else decoded

    @th.no_grad()
    def scores(self) -> dict[str, Any]:
        """Of pi + d and of p + d on the held-out windows; and the share of the variance of z that pi explains."""
        self.policy.set_training_mode(False)
        outputs = []
        for indices in np.array_split(np.arange(len(self.held_out)), max(1, len(self.held_out) // 512)):
            frames = self.held_out.windows(indices).frames
            latent_actions = self.policy.standardized(self.policy.latent_actions(self.policy.encode(frames)))
            predicted = self.policy.imitate(frames[:, -2], self.policy.latent_policy_average)
            outputs.append((predicted, latent_actions))
        predicted, latent_actions = (th.cat(parts) for parts in zip(*outputs, strict=True))
        read = self.policy.action_decoder(latent_actions)
        scores = {
            "score_pi_d": self._score(self.policy.action_decoder(predicted)),
            "score_p_d": self._score(read),
            "explained_variance_of_z": _explained_variance(predicted, latent_actions),
        }
        if self.groups is None:  # an axis that the expert hardly uses can hide the others
            axes = zip(read.clamp(-1, 1).T, self.held_out_actions.T, strict=True)
            scores["score_p_d_by_axis"] = " ".join(f"{_explained_variance(*axis):.2f}" for axis in axes)
        return scores

    def _score(self, decoded: th.Tensor) -> float:
        if self.groups is None:
            return _explained_variance(decoded.clamp(-1, 1), self.held_out_actions)  # as they would be taken
        return (self.groups[decoded.argmax(1)] == self.groups[self.held_out_actions[:, 0]]).float().mean().item()

    def majority(self) -> float:
        """Score of the best constant."""
        if self.groups is None:
            return 0.0
        return (self.groups[self.held_out_actions].flatten().bincount().max() / len(self.held_out_actions)).item()


def _explained_variance(predicted: th.Tensor, truth: th.Tensor) -> float:
    return 1 - (F.mse_loss(predicted, truth) / (truth.var(0, unbiased=False).mean() + 1e-8)).item()


def pretrain(model: BCVLR, path: Path | None) -> None:
    """As the model in ``path`` was; where there is none yet, from the videos."""
    if path is not None and path.exists():
        model.set_parameters(path, device=model.device)
        return
    model.pretrain(progress_bar=True)
    if path is not None:
        model.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "task", type=known_task, help="suite/task: procgen/fruitbot, dmcontrol/reacher_easy, metaworld/drawer-open"
    )
    parser.add_argument("--labelled", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("outputs/ladder"))
    parser.add_argument(
        "--updates", type=positive, default=4_000, help="of pi in each rung; in rung 5, rollouts without update make none"
    )
    parser.add_argument("--align-updates", type=positive, default=1_500, help="of p and d on true pairs")
    parser.add_argument("--pretrained", type=Path, metavar="FILE.zip", help="start from this model; made if it is not there")
    parser.add_argument("--random-steps", type=positive, default=2_000, help="of rung 0, which makes a third of the updates")
    parser.add_argument(
        "--true-dynamics", type=not_negative, default=0, metavar="N", help="steps of a world model of the true actions"
    )
    parser.add_argument("--steps", type=positive, default=100_000, help="environment steps of the full method")
    parser.add_argument("--n-envs", type=positive, default=64)
    parser.add_argument("--eval-episodes", type=positive, default=64)
    parser.add_argument(
        "--eval-every", type=not_negative, default=0, metavar="N", help="judge rung 5 by 10 episodes every N steps"
    )
    parser.add_argument("--processes", action="store_true", help="give each environment of MuJoCo a process of its own")
    parser.add_argument("--rungs", type=int, nargs="*", choices=range(6), default=[*range(6)])
    parser.add_argument("--env", type=json_object, default={}, metavar="JSON", help="further arguments of the environment")
    parser.add_argument(
        "--eval-env", type=json_object, default={}, metavar="JSON", help="what is otherwise where it is judged"
    )
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", type=json_object, default={}, metavar="JSON", help="other hyper-parameters of BCVLR")
    parser.add_argument("--fast-convolutions", action="store_true", help="on a GPU, which then do not repeat to the last bit")
    args = parser.parse_args()
    suite, _, name = args.task.partition("/")
    task = name or suite
    env_kwargs = environment_arguments(args)
    # What a rung spends on pi, the full method spends over its rollouts.
    kwargs = model_arguments(args.task, args.preset, {"pretrain_imitation_steps": 0, **args.set})
    n_eval_envs = min(args.eval_episodes, args.n_envs)
    with told_in_a_line():
        env = MAKERS[suite](task, args.n_envs, args.seed, **env_kwargs)
        eval_env = MAKERS[suite](task, n_eval_envs, eval_seed(args.seed), **{**env_kwargs, **args.eval_env})
        videos, held_out = (  # nothing may be skipped: actions are found by the number of their frame
            load_videos(folder, env, args.seed, kwargs.get("n_history"), on_error="raise")
            for folder in (args.labelled, args.held_out)
        )
        actions, held_out_actions = read_actions(args.labelled, videos), read_actions(args.held_out, held_out)
        model = BCVLR(env, videos=videos, seed=args.seed, **kwargs)
        args.out.mkdir(parents=True, exist_ok=True)
    choose_convolutions(args.fast_convolutions)
    rollout_steps = model.train_freq.frequency * args.n_envs
    n_rollouts = -(-args.steps // rollout_steps)
    start = time.perf_counter()
    pretrain(model, args.pretrained)
    seconds_pretraining = time.perf_counter() - start
    groups = action_groups(task) if suite == "procgen" else None
    if isinstance(env.action_space, spaces.Discrete) and groups is None:
        groups = np.arange(env.action_space.n)  # no two of them have the same effect
    ladder = Ladder(model, actions, held_out, held_out_actions, groups)
    diagnostics = model.policy.dynamics_diagnostics(held_out.sample(1024).frames)
    random = evaluate_random(eval_env, args.eval_episodes)
    if args.true_dynamics:
        diagnostics |= ladder.true_dynamics(args.true_dynamics)
    about = {"majority": ladder.majority(), **random, "seconds_pretraining": seconds_pretraining}
    print("pre-trained; on held-out windows:", json.dumps({**about, **diagnostics}), flush=True)

    write_csv(args.out / f"{task}_dynamics.csv", [{"task": task, "seed": args.seed, **about, **diagnostics}])

    rows: list[dict[str, Any]] = []
    for rung in args.rungs:
        ladder.restart()
        n_updates = args.updates
        start = time.perf_counter()
        if rung == 0:
            n_updates = 0
            ladder.random_steps(args.random_steps, args.align_updates // 3)
        elif rung == 1:
            ladder.clone_actions(ladder.actions, args.updates)
        elif rung == 2:
            ladder.align(args.align_updates, train_idm=True)
            ladder.clone_actions(ladder.read_labels(), args.updates)
        elif rung in (3, 4):
            ladder.align(args.align_updates, train_idm=rung == 3)
            ladder.clone_latent_actions(args.updates)
        else:
            model = BCVLR(env, videos, seed=args.seed, **{**kwargs, "imitation_steps": args.updates // n_rollouts})
            choose_convolutions(args.fast_convolutions)
            ladder.model = model
            model.set_parameters(ladder.start, device=model.device)
            ladder.policy = model.policy
            curve = LearningCurve()
            every = -(-args.eval_every // args.n_envs)
            judge = EvalCallback(eval_env, n_eval_episodes=10, eval_freq=every, log_path=str(args.out))  # never, if 0
            model.learn(args.steps, callback=[curve, judge], progress_bar=True)
            n_updates = model.imitation_steps * max(0, n_rollouts - model.learning_starts // rollout_steps)
            points = [dict(zip(curve.columns, point, strict=True)) for point in curve.points]
            write_csv(args.out / f"{task}_curve.csv", points)
        seconds = time.perf_counter() - start
        ladder.policy.set_training_mode(False)
        row = {"task": task, "rung": rung, **ladder.scores(), **evaluate(ladder.model, eval_env, args.eval_episodes)}
        row |= {"updates": n_updates, "seconds": seconds, "seed": args.seed, **about, **diagnostics}
        row["device"] = th.cuda.get_device_name() if model.device.type == "cuda" else f"cpu, {th.get_num_threads()} threads"
        row |= peak_gpu_memory(model.device)
        add_row(rows, row, args.out / f"{task}.csv")


if __name__ == "__main__":
    main()
