#!/bin/bash
# Every figure that docs/benchmarks leaves open for want of a GPU, most wanted first. Each line stands alone: run those there is time for.
#
#     bash examples/gpu.sh data outputs/gpu      # data/bigfish and data/fruitbot: videos with episodes.csv
set -euo pipefail
videos=$1 out=$2
here=$(dirname "$0")
mkdir -p "$out"

# Published sizes, videos that pi does not know by heart (300k frames and more), and the shift that may stand in for more of them.
fast='"mixed_precision": true, "compile": true'
for game in bigfish fruitbot; do
    python "$here/train.py" "procgen/$game" --videos "$videos/$game" --preset paper --set "{$fast}" --out "$out/paper_$game"
    python "$here/train.py" "procgen/$game" --videos "$videos/$game" --preset paper --set "{$fast, \"imitation_pad\": 2}" --out "$out/paper_shifted_$game"
    python "$here/train.py" "procgen/$game" --videos "$videos/$game" --out "$out/default_$game"
done
python "$here/train.py" procgen/bigfish --videos "$videos/bigfish" --preset paper --out "$out/paper_float32_bigfish"

# Where a step's time goes, scaling, and the quickstart in under a minute.
python "$here/benchmark_speed.py" --preset paper --quick --set "{$fast}" --out "$out/speed_paper.csv"
python "$here/benchmark_speed.py" --stage dynamics imitation online --batch-sizes 64 128 256 512 1024 --out "$out/speed_batch_sizes.csv"
python "$here/benchmark_speed.py" --stage dynamics imitation --video-frames 10000 100000 1000000 2500000 --out "$out/speed_videos.csv"
python "$here/quickstart.py" --out "$out/quickstart"
