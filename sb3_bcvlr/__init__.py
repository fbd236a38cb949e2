"""Learn to act by watching: imitation from action-free videos behind the interface of Stable-Baselines3."""

from sb3_bcvlr.envs.registration import register_envs, silence_gym_notice

silence_gym_notice()  # before anything imports Stable-Baselines3
register_envs()

from sb3_bcvlr import hyperparams  # noqa: E402
from sb3_bcvlr.bcvlr import BCVLR  # noqa: E402
from sb3_bcvlr.common.video_dataset import VideoDataset  # noqa: E402

__version__ = "0.1.0"
__all__ = ["BCVLR", "VideoDataset", "__version__", "hyperparams"]
