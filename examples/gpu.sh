#!/bin/bash
# The figures of docs/benchmarks that wait for a GPU, most wanted first.
#
#     bash examples/gpu.sh data outputs/gpu                                       # all of them: days
#     bash examples/gpu.sh data outputs/gpu compile speed "proof fruitbot 1"      # these: ten minutes
#
# data/bigfish and data/fruitbot: videos of Procgen, 300k frames or more, with episodes.csv. What continuous control needs is
# recorded into data where it is missing; experts of finger spin, cheetah and jaco lie in data/experts/TASK/best_model.zip
# (train_expert.py TASK --out data/experts/TASK). A run of Procgen whose summary.json is there is not made again.
set -euo pipefail
videos=$1 out=$2
here=$(dirname "$0")
mkdir -p "$out"

fast='"mixed_precision": true, "compile": true'
shifted='"imitation_pad": 2, "policy_tau": 0.01' # what pi generalises by

benchmark() { # name of the csv, further arguments
    python "$here/benchmark_speed.py" --preset paper --quick --fast-convolutions --set "{$fast, $shifted}" --out "$out/$1.csv" "${@:2}"
}

# The stages compile side by side what PyTorch then finds compiled: their own times, of a GPU that they share, mean nothing.
compile() {
    local processes=()
    for stage in encoder dynamics imitation online; do
        benchmark "compile_$stage" --stage $stage &
        processes+=($!)
    done
    for process in "${processes[@]}"; do wait "$process"; done
}

# Where a step's time goes, kernel by kernel.
speed() {
    benchmark speed_paper --profile
}

quickstart() {
    python "$here/quickstart.py" --out "$out/quickstart"
}

procgen() { # game, seed, folder, further arguments
    [ -e "$out/$3_$1-$2/summary.json" ] && return
    python "$here/train.py" "procgen/$1" --videos "$videos/$1" --seed "$2" --fast-convolutions --out "$out/$3_$1-$2" "${@:4}"
}

# The whole run, with shifted pictures and an average of pi (docs/benchmarks/procgen.md): 0.85 of the videos' return is asked
# for, three seeds each, of 256 episodes, which tell it to some 0.05. summary.json tells seconds and memory, time/time_elapsed in
# progress.csv when each stage ended.
proof() { # game, seed
    procgen "$1" "$2" paper_shifted --preset paper --set "{$fast, $shifted}" --eval-episodes 256
}

proofs() {
    for seed in 0 1 2; do
        for game in fruitbot bigfish; do
            proof $game $seed
        done
    done
}

float32() { # with PyTorch's TF32 in convolutions; compiled, without which it takes some 16 minutes of an H100 (computed)
    procgen bigfish 0 paper_float32 --preset paper --set "{\"compile\": true, $shifted}"
}

scaling() {
    python "$here/benchmark_speed.py" --stage dynamics imitation online --batch-sizes 64 128 256 512 1024 --out "$out/speed_batch_sizes.csv"
    python "$here/benchmark_speed.py" --stage dynamics imitation --video-frames 10000 100000 1000000 2500000 --out "$out/speed_videos.csv"
}

# The networks for CPUs, as published, and with an encoder of pi's own.
other_networks() {
    for seed in 0 1 2; do
        for game in fruitbot bigfish; do
            procgen $game $seed default --set "{$fast}"
            procgen $game $seed paper --preset paper --set "{$fast}"
            procgen $game $seed paper_own --preset paper --set "{$fast, $shifted, \"policy_kwargs\": {\"share_encoder\": false}}"
        done
    done
}

# Continuous control.
record() { # task, episodes, further arguments: TASK-labelled to learn from, and a tenth as many of TASK-test-labelled
    name=${1#*/}
    for part in "$name $2 1" "$name-test $(($2 / 10)) 2"; do
        read -r folder episodes seed <<< "$part"
        [ -e "$videos/$folder-labelled" ] || python "$here/record_videos.py" "$1-$([ "${1%%/*}" = metaworld ] && echo v3 || echo v0)" \
            --out "$videos/$folder" --actions "$videos/$folder-labelled" --episodes "$episodes" --seed "$seed" "${@:3}"
    done
}
record_all() {
    for task in reacher_hard reacher_easy point_mass_easy ball_in_cup_catch; do
        record dmcontrol/$task 2200 --stop-after-success 20
    done
    for task in finger_spin cheetah_run_backward jaco_reach_bottom_left jaco_reach_top_right; do
        record dmcontrol/$task $([ ${task%%_*} = jaco ] && echo 800 || echo 200) --expert "$videos/experts/$task/best_model.zip" --algo sac
    done
    for task in drawer-open faucet-open faucet-close; do
        record metaworld/$task 1000 --action-repeat 5 --stop-after-success 3
    done
    videos="$videos/two-views" record metaworld/reach 1000 --action-repeat 5 --stop-after-success 10 --noise 0.3 --camera side+behindGripper # docs/benchmarks/metaworld.md
}

ladder() { # task, folder, further hyper-parameters, further arguments
    name=${1#*/}
    python "$here/ladder.py" "$1" --labelled "$videos/$name-labelled" --held-out "$videos/$name-test-labelled" --preset paper --processes --fast-convolutions \
        --n-envs 4 --eval-episodes 20 --out "$out/$2" --set "{$fast, $3}" "${@:4}"
}

# DMControl as published; pi sees shifted pictures, which made reacher steadier. Meta-World with larger steps, so that pictures show them.
learn() { # task, seed, steps of the agent, updates of pi, further hyper-parameters, further arguments
    ladder "$1" "${1#*/}-$2" "\"pretrain_imitation_steps\": 20001, \"imitation_pad\": 4$5" \
        --rungs 5 --seed "$2" --steps "$3" --updates "$4" --eval-every $(($3 / 10)) "${@:6}"
}

continuous() {
    record_all
    for seed in 0 1 2; do
        learn dmcontrol/reacher_hard $seed 50000 50000 ''
        learn dmcontrol/finger_spin $seed 50000 50000 ''
        learn metaworld/drawer-open $seed 10000 50000 ', "dynamics_pad": 4, "rollout_steps": 400, "n_epochs": null, "gradient_steps": 200' --env '{"action_repeat": 5}'
    done
    for task in point_mass_easy reacher_easy ball_in_cup_catch cheetah_run_backward jaco_reach_bottom_left jaco_reach_top_right; do
        learn dmcontrol/$task 0 50000 50000 ''
    done
}

# Screening with the published networks: what pi clones from true actions, and what p + d read after random steps.
screen() { # task, further arguments
    ladder "$1" "screen-${1#*/}" '"pretrain_encoder_steps": 5000, "pretrain_dynamics_steps": 5000, "dynamics_pad": 4, "random_action_steps": 4' \
        --rungs 0 1 --updates 3000 "${@:2}"
}

screening() {
    record_all
    for task in point_mass_easy reacher_easy reacher_hard finger_spin ball_in_cup_catch cheetah_run_backward jaco_reach_bottom_left jaco_reach_top_right; do
        screen dmcontrol/$task
    done
    for task in drawer-open faucet-open faucet-close; do
        screen metaworld/$task --env '{"action_repeat": 5}'
    done
    videos="$videos/two-views" screen metaworld/reach --env '{"action_repeat": 5, "camera": "side+behindGripper"}'
}

parts=("${@:3}")
[ ${#parts[@]} -gt 0 ] || parts=(compile speed quickstart proofs scaling float32 other_networks continuous screening)
for part in "${parts[@]}"; do $part; done # split into words: a function and what it is given
