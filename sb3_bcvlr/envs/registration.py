"""Gymnasium ids of the environments in this package. Importing this module loads no simulator."""

from gymnasium.envs.registration import register, registry

PROCGEN_GAMES = tuple(
    "bigfish bossfight caveflyer chaser climber coinrun dodgeball fruitbot "
    "heist jumper leaper maze miner ninja plunder starpilot".split()
)

# The suite of dm_control, then the tasks made here of its parts.
DMCONTROL_TASKS = tuple(
    "acrobot_swingup acrobot_swingup_sparse ball_in_cup_catch cartpole_balance cartpole_balance_sparse cartpole_swingup "
    "cartpole_swingup_sparse cartpole_two_poles cartpole_three_poles cheetah_run dog_stand dog_walk dog_trot dog_run "
    "dog_fetch finger_spin finger_turn_easy finger_turn_hard fish_upright fish_swim hopper_stand hopper_hop humanoid_stand "
    "humanoid_walk humanoid_run humanoid_run_pure_state humanoid_CMU_stand humanoid_CMU_walk humanoid_CMU_run lqr_lqr_2_1 "
    "lqr_lqr_6_2 manipulator_bring_ball manipulator_bring_peg manipulator_insert_ball manipulator_insert_peg "
    "pendulum_swingup point_mass_easy point_mass_hard quadruped_walk quadruped_run quadruped_escape quadruped_fetch "
    "reacher_easy reacher_hard stacker_stack_2 stacker_stack_4 swimmer_swimmer6 swimmer_swimmer15 walker_stand walker_walk "
    "walker_run cheetah_run_backward jaco_reach_top_left jaco_reach_top_right jaco_reach_bottom_left "
    "jaco_reach_bottom_right".split()
)
METAWORLD_TASKS = tuple(
    f"{task}-v3"
    for task in (
        "assembly basketball bin-picking box-close button-press-topdown button-press-topdown-wall button-press "
        "button-press-wall coffee-button coffee-pull coffee-push dial-turn disassemble door-close door-lock door-open "
        "door-unlock hand-insert drawer-close drawer-open faucet-open faucet-close hammer handle-press-side handle-press "
        "handle-pull-side handle-pull lever-pull pick-place-wall pick-out-of-hole pick-place plate-slide plate-slide-side "
        "plate-slide-back plate-slide-back-side peg-insert-side peg-unplug-side soccer stick-push stick-pull push push-wall "
        "push-back reach reach-wall shelf-place sweep-into sweep window-open window-close"
    ).split()
)


def register_envs() -> None:
    """
    Register ``procgen/<game>-v0``, ``dmcontrol/<task>-v0``, ``metaworld/<task>-v3`` for all their games and tasks, and
    ``sb3_bcvlr/Foraging-v0``; ids already there are left alone.

    Runs on ``import sb3_bcvlr``. Gymnasium 1.0 dropped the plug-in entry points by which it once found such ids unasked; a
    script that does not import this package names it instead: ``gymnasium.make("sb3_bcvlr:procgen/bigfish-v0")``.
    """
    entry_points: dict[str, tuple[str, dict[str, str]]] = {
        "sb3_bcvlr/Foraging-v0": ("sb3_bcvlr.envs.foraging:ForagingEnv", {})
    }
    for game in PROCGEN_GAMES:
        entry_points[f"procgen/{game}-v0"] = ("sb3_bcvlr.envs.procgen:ProcgenEnv", {"game": game})
    for task in DMCONTROL_TASKS:
        entry_points[f"dmcontrol/{task}-v0"] = ("sb3_bcvlr.envs.dmcontrol:dmcontrol_env", {"task": task})
    for task in METAWORLD_TASKS:
        entry_points[f"metaworld/{task}"] = ("sb3_bcvlr.envs.metaworld:metaworld_env", {"task": task})
    for env_id, (entry_point, kwargs) in entry_points.items():
        # No max_episode_steps: the environments count their own steps and report the truncation.
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
