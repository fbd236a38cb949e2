"""
When it does not learn: climb five rungs, from cloning true actions to the full method. The first that falls shows the fault.

    python examples/ladder.py fruitbot --labelled data/fruitbot-labelled --held-out data/fruitbot-held-out

Both folders hold LAPO's .npz chunks with the expert's actions (``ta``), the second of other episodes. True actions serve
this script alone. Each rung trains the same latent policy pi for the same number of updates, and is judged by the return of
the sampled policy on fresh levels and by its accuracy on the held-out windows, actions of equal effect merged:

1. pi and d clone the true actions: what this network can do with these videos.
2. pi and d clone the labels of an inverse model p + d, trained on true pairs: what inverse dynamics cost.
3. pi clones z, p and d trained on true pairs: what cloning latent actions instead of labels costs.
4. the same with p frozen after pre-training: what the latent actions are worth before any action is seen.
5. the full method, its actions from its own steps in the environment.
"""

import argparse
import csv
import json
import time
from copy import deepcopy
from pathlib import Path

import sb3_bcvlr  # isort: skip  before stable_baselines3, to keep gym's notice quiet
import numpy as np
import torch as th
from quickstart import EVAL_SEED, LearningCurve, evaluate
from torch.nn import functional as F
from tqdm import trange

from sb3_bcvlr import BCVLR, VideoDataset
from sb3_bcvlr.common.video_imitation import optimize
from sb3_bcvlr.common.video_io import find_videos
from sb3_bcvlr.envs import make_procgen
from sb3_bcvlr.envs.procgen import action_groups


def read_actions(folder: Path, dataset: VideoDataset) -> th.Tensor:
    """(len(dataset),) the true action a_t of each window."""
    actions = np.concatenate([np.load(chunk)["ta"] for chunk in find_videos(folder)])
    return th.as_tensor(actions[dataset.frame_numbers(np.arange(len(dataset)))]).long()


class Ladder:
    """
    :param model: pre-trained on the videos; every rung starts from a copy of its policy
    :param actions: true actions of its videos' windows
    """

    def __init__(self, model: BCVLR, actions: th.Tensor, held_out: VideoDataset, held_out_actions: th.Tensor, game: str):
        self.model, self.actions, self.held_out, self.held_out_actions = model, actions, held_out, held_out_actions
        self.groups = th.as_tensor(action_groups(game))
        self.policy = model.policy
        self.start = deepcopy(model.policy.state_dict())

    def restart(self) -> None:
        """Forget the last rung: networks as pre-trained."""
        self.policy.load_state_dict(self.start)
        self.policy.set_training_mode(True)
        self.policy.world_model.eval()

    def clone_actions(self, labels: th.Tensor, n_steps: int) -> None:
        """pi and d by cross-entropy against ``labels``, one for each window."""
        learned = [*self.policy.latent_policy.parameters(), *self.policy.action_decoder.parameters()]
        optimizer = th.optim.Adam(learned, self.model.imitation_learning_rate, fused=True)
        for _ in trange(n_steps, desc="clone actions"):
            indices = self.model.videos.sample_indices(self.model.imitation_batch_size)
            logits = self.policy.action_decoder(
                self.policy.latent_policy(self.policy.encode(self.model.videos.observations(indices)))
            )
            optimize(optimizer, F.cross_entropy(logits, labels[indices]))

    def clone_latent_actions(self, n_steps: int) -> None:
        optimizer = th.optim.Adam(self.policy.latent_policy.parameters(), self.model.imitation_learning_rate, fused=True)
        self.model._imitate_videos(n_steps, optimizer, progress_bar=True)

    def align(self, n_steps: int, train_idm: bool) -> None:
        """d, and p if asked, on true pairs of the videos, with L_ft."""
        learned = [*self.policy.action_decoder.parameters(), *(self.policy.idm.parameters() if train_idm else ())]
        optimizer = th.optim.Adam(learned, self.model.action_decoder_learning_rate, fused=True)
        for _ in trange(n_steps, desc="align"):
            videos = self.model.videos.sample(self.model.batch_size)
            latent_actions, dynamics_loss = self.policy.latent_dynamics(videos.frames, self.model.commitment_coef)
            action_loss, _ = self.policy.action_loss(latent_actions, self.actions[videos.indices][:, None])
            optimize(optimizer, action_loss + self.model.world_model_coef * dynamics_loss * train_idm)

    @th.no_grad()
    def read_labels(self) -> th.Tensor:
        """(len(videos),) the action that p + d reads in each window of the videos."""
        latent_actions = self.policy.standardized(self.model._label_videos(np.arange(len(self.model.videos))))
        return self.policy.action_decoder(latent_actions).argmax(1)

    @th.no_grad()
    def accuracies(self) -> dict[str, float]:
        """Of pi + d and of p + d on the held-out windows, merged; and the share of the variance of z that pi explains."""
        self.policy.set_training_mode(False)
        hits_pi, hits_p, errors, variances = [], [], [], []
        for indices in np.array_split(np.arange(len(self.held_out)), max(1, len(self.held_out) // 512)):
            features = self.policy.encode(self.held_out.windows(indices).frames)
            latent_actions = self.policy.standardized(self.policy.latent_actions(features))
            predicted = self.policy.latent_policy(features[:, -2])
            truth = self.groups[self.held_out_actions[indices]]
            hits_pi.append(self.groups[self.policy.action_decoder(predicted).argmax(1)] == truth)
            hits_p.append(self.groups[self.policy.action_decoder(latent_actions).argmax(1)] == truth)
            errors.append((predicted - latent_actions).square().mean(1))
            variances.append((latent_actions - latent_actions.mean(0)).square().mean(1))
        return {
            "accuracy_pi_d": th.cat(hits_pi).float().mean().item(),
            "accuracy_p_d": th.cat(hits_p).float().mean().item(),
            "explained_variance_of_z": 1 - (th.cat(errors).mean() / th.cat(variances).mean()).item(),
        }

    def majority(self) -> float:
        return (self.groups[self.held_out_actions].bincount().max() / len(self.held_out_actions)).item()


def write_csv(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("game")
    parser.add_argument("--labelled", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("outputs/ladder"))
    parser.add_argument("--updates", type=int, default=4_000, help="of pi in each rung")
    parser.add_argument("--align-updates", type=int, default=1_500, help="of p and d on true pairs")
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps of the full method")
    parser.add_argument("--n-envs", type=int, default=64)
    parser.add_argument("--rungs", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--preset", choices=["default", "paper"], default="default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", type=json.loads, default={}, metavar="JSON", help="other hyper-parameters of BCVLR")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    env = make_procgen(args.game, args.n_envs, args.seed)
    eval_env = make_procgen(args.game, 64, EVAL_SEED + args.seed)
    videos, held_out = (VideoDataset(folder, seed=args.seed) for folder in (args.labelled, args.held_out))
    kwargs = sb3_bcvlr.hyperparams.get("bcvlr", "procgen") if args.preset == "paper" else {}
    # What a rung spends on pi, the full method spends over its rollouts.
    model = BCVLR(env, videos=videos, seed=args.seed, **{**kwargs, "pretrain_imitation_steps": 0, **args.set})
    n_rollouts = -(-args.steps // (model.train_freq.frequency * args.n_envs))
    start = time.perf_counter()
    model.pretrain(progress_bar=True)
    seconds_pretraining = time.perf_counter() - start
    ladder = Ladder(model, read_actions(args.labelled, videos), held_out, read_actions(args.held_out, held_out), args.game)
    diagnostics = model.policy.dynamics_diagnostics(held_out.sample(1024).frames)
    print(f"pre-trained in {seconds_pretraining:.0f} s; on held-out windows:", json.dumps(diagnostics))
    majority = ladder.majority()
    print(f"most frequent action: {majority:.3f} of the held-out windows")

    rows = []
    for rung in args.rungs:
        ladder.restart()
        start = time.perf_counter()
        if rung == 1:
            ladder.clone_actions(ladder.actions, args.updates)
        elif rung == 2:
            ladder.align(args.align_updates, train_idm=True)
            labels = ladder.read_labels()
            ladder.clone_actions(labels, args.updates)
        elif rung in (3, 4):
            ladder.align(args.align_updates, train_idm=rung == 3)
            ladder.clone_latent_actions(args.updates)
        else:
            model.imitation_steps = args.updates // n_rollouts
            curve = LearningCurve()
            model.learn(args.steps, callback=curve, progress_bar=True)
            write_csv(args.out / f"{args.game}_curve.csv", [{"step": step, "return": value} for step, value in curve.points])
        seconds = time.perf_counter() - start
        model.policy.set_training_mode(False)
        mean_return, stderr = evaluate(model, eval_env, 64)
        row = {"game": args.game, "rung": rung, **ladder.accuracies(), "return": mean_return, "return_stderr": stderr}
        row |= {
            "updates": args.updates,
            "seconds": seconds,
            "majority": majority,
            "seconds_pretraining": seconds_pretraining,
            "seed": args.seed,
            **diagnostics,
        }
        rows.append({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
        print(json.dumps(rows[-1]), flush=True)
        write_csv(args.out / f"{args.game}.csv", rows)


if __name__ == "__main__":
    main()
