"""``examples/benchmark_speed.py`` times what it says."""

import argparse
import sys
import time

import pytest
import torch as th

pytest.importorskip("procgen", reason="the benchmark acts in Procgen")
import benchmark_speed

from sb3_bcvlr.common.files import read_csv

SLEEP = 0.02  # seconds a step of the reference takes

REFERENCE = f"""
import time

def make_step(stage, batch_size, device):
    assert batch_size == {{"imitation": 4, "act": 2}}[stage] and device.type == "cpu"
    return (lambda: time.sleep({SLEEP})) if stage == "imitation" else None
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("speed")


@pytest.fixture(scope="module")
def rows(folder):
    """The csv of a run over two stages beside a reference that has one of them."""
    (folder / "steps.py").write_text(REFERENCE)
    options = "--device cpu --quick --profile --stage imitation act --batch-sizes 4 --n-envs 2 --video-frames 200"
    folders = ["--out", folder / "speed.csv", "--cache-dir", folder / "cache", "--reference", folder]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["benchmark_speed.py", *options.split(), *map(str, folders)])
        benchmark_speed.main()
    return {row["stage"]: row for row in read_csv(folder / "speed.csv")}


def test_each_stage_has_a_row_with_its_time_and_settings(rows):
    assert {stage: row["batch_size"] for stage, row in rows.items()} == {"imitation": "4", "act": "2"}
    assert all(float(row["ms"]) > 0 and row["video_frames"] == "200" for row in rows.values())


def test_the_reference_is_timed_in_the_same_run(rows):
    row = rows["imitation"]
    assert 0.8 * SLEEP < float(row["reference_ms"]) / 1000 < 5 * SLEEP
    assert float(row["ratio"]) == pytest.approx(float(row["reference_ms"]) / float(row["ms"]), rel=0.01)


def test_a_stage_that_the_reference_lacks_has_no_ratio(rows):
    assert rows["act"]["ratio"] == "nan"


def test_a_profile_names_the_operators_of_each_stage(rows, folder):
    rows = read_csv(folder / "speed_profile.csv")
    operators = {(row["stage"], row["operator"]): float(row["ms"]) for row in rows}
    assert operators["imitation", "aten::convolution_backward"] > 0
    assert {stage for stage, _ in operators} == {"imitation", "act"}
    assert not any("backward" in name for stage, name in operators if stage == "act")


def test_a_profile_counts_what_each_step_calls():
    def run(n_steps):
        _ = th.ones(10) / 2  # what a stage does once
        for _ in range(n_steps):
            (th.ones(10) + 1).exp().exp()

    calls = {row["operator"]: row["calls"] for row in benchmark_speed.operator_times(run, th.device("cpu"), n_steps=3)}
    assert (calls["aten::add"], calls["aten::exp"], calls["aten::div"]) == (1, 2, 0)


def test_what_a_stage_costs_once_does_not_count():
    def run(n_steps):
        time.sleep(0.05 + 0.01 * n_steps)

    wall, _ = benchmark_speed.milliseconds(run, th.device("cpu"), n_steps=3, n_repeats=3)
    assert wall == pytest.approx(10, rel=0.5)


def test_a_whole_run_adds_up_its_stages():
    args = argparse.Namespace(preset="paper", set={})
    times = dict.fromkeys(benchmark_speed.STAGES, 0.0)
    one_each = {stage: benchmark_speed.whole_run({**times, stage: 1000.0}, 64, args) for stage in times}
    assert one_each == {
        "encoder": 20_000,
        "dynamics": 10_001,
        "imitation": 20_001 + 25 * 500,
        "online": 25 * 60,
        "act": 1562,
        "step": 1562,
    }
