"""Take a policy to where there is no PyTorch."""

import os
from copy import deepcopy
from pathlib import Path

import torch as th
from gymnasium import spaces
from torch import nn

from sb3_bcvlr.bcvlr.bcvlr import BCVLR
from sb3_bcvlr.bcvlr.policies import BCVLRPolicy
from sb3_bcvlr.common.files import written_beside


class ActingNetworks(nn.Module):
    """d(pi(f(o))) with its scaling, from uint8 pictures to logits or to actions in the environment's bounds."""

    def __init__(self, policy: BCVLRPolicy):
        super().__init__()
        self.policy = policy

    def forward(self, observations: th.Tensor) -> th.Tensor:
        decoded = self.policy.decode(observations)
        if isinstance(self.policy.action_space, spaces.Box):
            low, high = (
                th.as_tensor(bound.reshape(-1)) for bound in (self.policy.action_space.low, self.policy.action_space.high)
            )
            actions = low + (decoded.clamp(-1, 1) + 1) / 2 * (high - low)
            return actions.clamp(low, high)  # rounding may end beside them
        return decoded


def export_onnx(policy: BCVLRPolicy | BCVLR, path: str | os.PathLike[str]) -> None:
    """
    Write encoder, latent policy and decoder as one ONNX graph.

    Its input ``observations`` is (batch, C, H, W) uint8, of any batch size. Its output is ``logits`` (batch, n_actions), whose
    largest is the deterministic action, or ``actions`` (batch, action_dim) in the bounds of the action space.

    :param policy: a model or its policy
    :param path: of the .onnx file, which is written beside and then renamed; its folder is made where there is none
    :raises ImportError: ONNX is not installed
    """
    try:
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise ImportError("Exporting a policy needs ONNX: pip install 'sb3_bcvlr[onnx]'") from error
    policy = policy.policy if isinstance(policy, BCVLR) else policy
    networks = ActingNetworks(deepcopy(policy).cpu()).eval()
    assert policy.observation_space.shape is not None
    example = th.zeros(2, *policy.observation_space.shape, dtype=th.uint8)
    with written_beside(Path(path)) as temporary:
        th.onnx.export(
            networks,
            (example,),
            temporary,
            dynamo=True,
            verbose=False,
            external_data=False,  # one file
            input_names=["observations"],
            output_names=["logits" if policy.is_discrete else "actions"],
            dynamic_shapes=({0: th.export.Dim("batch")},),
        )
