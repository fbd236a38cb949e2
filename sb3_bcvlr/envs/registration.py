"""Gymnasium ids of the environments in this package. Importing this module loads no simulator."""

from gymnasium.envs.registration import register, registry

PROCGEN_GAMES = tuple(
    "bigfish bossfight caveflyer chaser climber coinrun dodgeball fruitbot "
    "heist jumper leaper maze miner ninja plunder starpilot".split()
)


def register_envs() -> None:
    """
    Register ``procgen/<game>-v0`` for the 16 games and ``sb3_bcvlr/Foraging-v0``; ids already there are left alone.

    Runs on ``import sb3_bcvlr``. Gymnasium 1.0 dropped the plug-in entry points by which it once found such ids unasked; a
    script that does not import this package names it instead: ``gymnasium.make("sb3_bcvlr:procgen/bigfish-v0")``.
    """
    entry_points = {f"procgen/{game}-v0": ("sb3_bcvlr.envs.procgen:ProcgenEnv", {"game": game}) for game in PROCGEN_GAMES}
    entry_points["sb3_bcvlr/Foraging-v0"] = ("sb3_bcvlr.envs.foraging:ForagingEnv", {})
    for env_id, (entry_point, kwargs) in entry_points.items():
        # No max_episode_steps: the games count their own steps and report the truncation.
        if env_id not in registry:
            register(env_id, entry_point=entry_point, kwargs=kwargs)


def silence_gym_notice() -> None:
    """
    Keep ``gym`` from printing that it is deprecated: procgen-mirror installs it, and Stable-Baselines3 imports what it finds.

    Must run before ``import stable_baselines3``. It empties the table of notices that gym looks up; gym itself is untouched.
    """
    try:
        from gym_notices import notices
    except ImportError:  # no gym, no notice
        return
    notices.notices.clear()
