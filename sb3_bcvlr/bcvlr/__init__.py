from sb3_bcvlr.bcvlr.bcvlr import BCVLR
from sb3_bcvlr.bcvlr.policies import BCVLRPolicy

CnnPolicy = BCVLRPolicy

__all__ = ["BCVLR", "BCVLRPolicy", "CnnPolicy"]
