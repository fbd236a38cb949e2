"""The table of whole runs in defaults.md, from defaults_runs.csv: ``python docs/benchmarks/tables.py`` writes it anew."""

from itertools import groupby
from pathlib import Path

from sb3_bcvlr.common.files import read_csv

FOLDER = Path(__file__).parent
BEGIN, END = "<!-- by tables.py -->\n", "<!-- until here -->\n"
DECIMALS = {"fruitbot": 1, "bigfish": 1, "ball_in_cup_catch": 0}
PRESETS = "the defaults", "dmcontrol_small"
HEADER = "task", "settings", "return of each seed", "mean, of the videos'", "p + d reads", "pi + d reads", "minutes"


def read(name: str) -> list[dict[str, str]]:
    """The rows of a csv of this folder."""
    return read_csv(FOLDER / name)


def minutes(run: dict[str, str]) -> float:
    """Of CPU time where other programs shared the core, else by the clock."""
    return float(run["cpu_seconds"] or float(run["seconds_pretraining"]) + float(run["seconds_online"])) / 60


def whole_runs() -> str:
    """A row for each task and settings, the best mean return of a task first."""
    runs = sorted(read("defaults_runs.csv"), key=lambda run: (run["task"], run["settings"], run["seed"]))
    rows = []
    for (task, settings), group in groupby(runs, key=lambda run: (run["task"], run["settings"])):
        seeds = list(group)
        share = sum(float(seed["of_videos"]) for seed in seeds) / len(seeds)
        digits = DECIMALS[task]
        returns = (
            f"{float(seed['return']):.{digits}f} +- {float(seed['stderr']):.{digits}f} ({seed['seed']})" for seed in seeds
        )
        scores = (", ".join(f"{float(seed[name]):.2f}" for seed in seeds) for name in ("score_p_d", "score_pi_d"))
        name = f"**{settings}**" if settings in PRESETS else settings
        time = f"{sum(map(minutes, seeds)) / len(seeds):.0f}"
        order = list(DECIMALS).index(task), -share
        rows.append((order, (task.removesuffix("_catch"), name, ", ".join(returns), f"{share:.2f}", *scores, time)))
    lines = [HEADER, ["---"] * len(HEADER), *(cells for _, cells in sorted(rows))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def with_tables(page: str) -> str:
    """The page with its table as it should be."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + whole_runs() + END + rest.split(END)[1]


if __name__ == "__main__":
    page = FOLDER / "defaults.md"
    page.write_text(with_tables(page.read_text()))
