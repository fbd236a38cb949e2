"""
Record expert videos: one lossless .mp4 an episode, and ``episodes.csv`` with what is known about each.

    python examples/record_videos.py --out examples/videos/foraging
    python examples/record_videos.py reacher_hard --out data/reacher --episodes 1000 --stop-after-success 10
    python examples/record_videos.py drawer-open-v3 --out data/drawer --stop-after-success 5 --actions data/drawer-labelled
    python examples/record_videos.py finger_spin --out data/finger --expert experts/finger_spin.zip --algo sac
    python examples/record_videos.py procgen/maze-v0 --out data/maze --expert my_experts:walk

Without --expert, the environment's own plays: the foraging world's, Meta-World's scripted policies, a sampling planner for
some tasks of DMControl. One video frame is one step of the agent, so record at the action repeat and image size at which the
policy is to act. Episode i depends on the settings, the seed and i alone: a killed run goes on where it stopped, with any
number of processes. Videos hold pixels only; --actions writes the actions too, beside them, for diagnostics.
"""
