"""The figures of these pages, from their csv files: ``python docs/benchmarks/figures.py`` draws them anew."""

from typing import Any

from matplotlib.figure import Figure
from tables import FOLDER, minutes, read

IN_WHOLE_RUNS = "to learn from in whole runs: the episodes that the first 131,072 frames hold whole"
VIDEOS = {  # as videos.csv names them
    "fruitbot": IN_WHOLE_RUNS,
    "bigfish": IN_WHOLE_RUNS,
    "ball_in_cup_catch": "whole episodes",
    "reacher_hard": "whole episodes",
    "finger_spin": "to learn from, on the H100",
}
RANDOM_PLAY = {"fruitbot": "ladder.csv", "bigfish": "ladder.csv", "ball_in_cup_catch": "dmcontrol.csv"}  # where it stands
MORE = {  # whether the videos are more, and pi's updates
    (True, False): "more videos",
    (False, True): "more updates of pi",
    (True, True): "more videos and updates of pi",
}
LABELS = {"the defaults": "the defaults, n_neighbors=0"} | {more: f"that, {more}" for more in MORE.values()}
COLORS = {  # of whole runs; all other settings are grey dots
    "the defaults": "black",
    "more videos": "tab:red",
    "more updates of pi": "tab:olive",
    "more videos and updates of pi": "tab:pink",
    "pi's encoder at 32x32, 6,250 updates": "tab:purple",
    "pi shares f": "tab:blue",
    "dmcontrol_small": "tab:cyan",
    "all stages": "tab:orange",
}


def where(rows: list[dict[str, str]], **values: str) -> list[dict[str, str]]:
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def bounds(task: str) -> tuple[float, float | None]:
    """What the videos return, and random play where that is known."""
    if task == "foraging":
        row = read("quickstart.csv")[0]
        return float(row["video_return"]), float(row["random_return"])
    videos = float(where(read("videos.csv"), task=task, videos=VIDEOS[task])[0]["return"])
    random_play = where(read(RANDOM_PLAY[task]), task=task) if task in RANDOM_PLAY else []
    return videos, float(random_play[0]["random_return"]) if random_play else None


def draw_bounds(axes: Any, task: str) -> None:
    videos, random_play = bounds(task)
    axes.axhline(videos, color="tab:green", linestyle="--", label="the videos")
    if random_play is not None:
        axes.axhline(random_play, color="gray", linestyle=":", label="random play")


def whole_runs() -> Figure:
    """Returns of training episodes (lines) and of fresh ones (dots) against minutes."""
    runs, curves = read("defaults_runs.csv"), read("defaults_curves.csv")
    with_neighbors = where(read("defaults_neighbors.csv"), run="the defaults", judged_by="16 neighbors")
    figure = Figure(figsize=(14, 6), layout="constrained")
    for axes, task in zip(figure.subplots(1, 3), ("fruitbot", "bigfish", "ball_in_cup_catch"), strict=True):
        draw_bounds(axes, task)
        labels = set()
        for run in where(runs, task=task):
            settings = run["settings"]
            settings = MORE.get(("frames of videos" in settings, settings.endswith("updates of pi")), settings)
            is_named = settings in COLORS
            style = dict(color=COLORS[settings], zorder=3) if is_named else dict(color="lightgray")
            label = LABELS.get(settings, settings) if is_named else "other settings"
            value = float(run["return"]), float(run["stderr"])
            axes.errorbar(minutes(run), *value, fmt="o", label=None if label in labels else label, **style)
            labels.add(label)
            if is_named:
                curve = where(curves, task=task, run=run["settings"], seed=run["seed"])
                scale = minutes(run) / float(curve[-1]["seconds"])  # of the clock, where the core was shared
                points = [(scale * float(point["seconds"]), float(point["return"])) for point in curve]
                axes.plot(*zip(*points, strict=True), color=COLORS[settings], alpha=0.35, linewidth=1)
        timed = [run for run in where(with_neighbors, task=task) if run["cpu_seconds"]]
        if timed:
            times, returns, errors = zip(*((minutes(r), float(r["return"]), float(r["stderr"])) for r in timed), strict=True)
            axes.errorbar(
                times, returns, errors, fmt="*", markersize=11, color="black", label="the defaults, other videos", zorder=4
            )
        axes.set(title=task, xlabel="minutes on one core, pre-training included")
        axes.set_ylabel("return (dots: fresh episodes, lines: training)")
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)
    return figure


def return_against_seconds() -> Figure:
    rows = read("speed_returns.csv")
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_bounds(left, "foraging")
    for axes, tasks, unit in ((left, ("foraging",), 1), (right, ("drawer-open", "reach"), 60)):
        for color, (task, run) in zip(
            ("tab:orange", "tab:blue"), dict.fromkeys((r["task"], r["run"]) for r in rows if r["task"] in tasks), strict=True
        ):
            for seed in dict.fromkeys(row["seed"] for row in where(rows, task=task, run=run)):
                curve = where(rows, task=task, run=run, seed=seed)
                label = (run if task == "foraging" else task) if seed == "0" else None
                axes.plot(
                    [float(r["seconds"]) / unit for r in curve],
                    [float(r["return"]) for r in curve],
                    ".-",
                    color=color,
                    label=label,
                )
        axes.legend()
    left.set(
        title="Foraging (quickstart of commit cad52d6), one core",
        xlabel="seconds, pre-training included",
        ylabel="return of training episodes",
    )
    right.set(
        title="Meta-World, metaworld_small, one core",
        xlabel="minutes, pre-training included",
        ylabel="return of training episodes",
    )
    return figure


def dmcontrol_paper() -> Figure:
    rows = read("dmcontrol_paper_curves.csv")
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, task in zip(figure.subplots(1, 2), ("reacher_hard", "finger_spin"), strict=True):
        draw_bounds(axes, task)
        for settings in dict.fromkeys(row["settings"] for row in where(rows, task=task)):
            curve = where(rows, task=task, settings=settings)
            axes.plot([int(r["frames"]) / 1000 for r in curve], [float(r["return"]) for r in curve], ".-", label=settings)
        axes.set(title=task, xlabel="1,000 frames", ylabel="return of 10 episodes", ylim=(0, None))
        axes.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    for name, figure in {
        "defaults_runs": whole_runs(),
        "speed_returns": return_against_seconds(),
        "dmcontrol_paper": dmcontrol_paper(),
    }.items():
        figure.savefig(FOLDER / f"{name}.png", dpi=100)
