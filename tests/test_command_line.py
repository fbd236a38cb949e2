"""What the scripts take as numbers and settings, and what they say of the rest."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from command_line import json_object, positive, share

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("kind", "text", "value"), [(positive, "3", 3), (share, "0.5", 0.5), (json_object, '{"tau": 0.1}', {"tau": 0.1})]
)
def test_what_fits_is_read(kind, text, value):
    assert kind(text) == value


@pytest.mark.parametrize(("kind", "text"), [(positive, "0"), (share, "-1"), (share, "nan"), (json_object, "[1]")])
def test_what_does_not_fit_is_said(kind, text):
    with pytest.raises(argparse.ArgumentTypeError, match=text.replace("[", r"\[") + " is"):
        kind(text)


@pytest.mark.parametrize(
    "command",
    ["quickstart.py --steps -1", "train.py procgen/maze --videos . --set [1]", "record_videos.py --out x --noise -1"],
)
def test_a_script_ends_with_a_line_and_without_a_run(command):
    script, *arguments = command.split()
    done = subprocess.run([sys.executable, EXAMPLES / script, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and done.stderr.splitlines()[-1].startswith(f"{script}: error: argument --")
