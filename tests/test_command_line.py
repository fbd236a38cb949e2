"""What the scripts take as numbers and settings, and what they say of the rest."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import json_object, not_negative, positive, share

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [(positive, "3", 3), (not_negative, "0", 0), (share, "0.5", 0.5), (json_object, '{"tau": 0.1}', {"tau": 0.1})],
)
def test_what_fits_is_read(kind, text, value):
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "text"), [(positive, "0"), (not_negative, "-1"), (share, "-1"), (share, "nan"), (json_object, "[1]")]
)
def test_what_does_not_fit_is_said(kind, text):
    with pytest.raises(argparse.ArgumentTypeError, match=text.replace("[", r"\[") + " is"):
        kind(text)


@pytest.mark.parametrize(
    "command",
    [
        "quickstart.py --steps -1: argument --steps: -1 is below 1",
        "train.py procgen/maze --videos . --set [1]: argument --set: [1] is no object",
        "train.py procgen/frutbot --videos .: argument task: procgen has no task 'frutbot'; did you mean fruitbot?",
        "train.py foraging --videos .: . holds no video",
        "record_videos.py --out x --noise -1: argument --noise: -1 is not from 0 to 1",
        "record_videos.py --out x --sample: --algo and --sample say how a model acts",
        "ladder.py foraging --labelled . --held-out . --rungs 6: argument --rungs: invalid choice: 6",
        "studies.py ablations foraging --videos .: . holds no video",
        "train_expert.py nosuch --out x: DeepMind Control has no task 'nosuch'",
        "benchmark_speed.py --reference x: there is no x/steps.py",
    ],
)
def test_a_script_ends_with_a_line_and_without_a_run(command, tmp_path):
    command, said = command.split(": ", 1)
    script, *arguments = command.split()
    done = subprocess.run([sys.executable, EXAMPLES / script, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    line = done.stderr.splitlines()[-1].replace("error: ", "")
    assert "Traceback" not in done.stderr and line.startswith(f"{script}: {said}"), done.stderr
