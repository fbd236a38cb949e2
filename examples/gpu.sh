#!/bin/bash
# Every figure that docs/benchmarks leaves open for want of a GPU, most wanted first. Each line stands alone: run those there is time for.
#
#     bash examples/gpu.sh data outputs/gpu      # data/bigfish and data/fruitbot: videos with episodes.csv
set -euo pipefail
videos=$1 out=$2
here=$(dirname "$0")
mkdir -p "$out"

# Does mixed precision pay, where does a step's time go, what does a whole run cost?
for set in '{}' '{"mixed_precision": true}'; do
    name=$([ "$set" = '{}' ] && echo float32 || echo bfloat16)
    python "$here/benchmark_speed.py" --preset paper --quick --set "$set" --out "$out/speed_paper_$name.csv"
done

# The first full proof of the method: the paper's networks; then the defaults.
for game in bigfish fruitbot; do
    python "$here/train.py" "procgen/$game" --videos "$videos/$game" --preset paper --set '{"mixed_precision": true}' --out "$out/paper_$game"
    python "$here/train.py" "procgen/$game" --videos "$videos/$game" --out "$out/default_$game"
done

# Scaling, and the quickstart in under a minute.
python "$here/benchmark_speed.py" --stage dynamics imitation online --batch-sizes 64 128 256 512 1024 --out "$out/speed_batch_sizes.csv"
python "$here/benchmark_speed.py" --stage act step --n-envs 1 4 16 64 256 --out "$out/speed_environments.csv"
python "$here/benchmark_speed.py" --stage dynamics imitation --video-frames 10000 100000 1000000 2500000 --out "$out/speed_videos.csv"
python "$here/quickstart.py" --out "$out/quickstart"
