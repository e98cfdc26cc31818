#!/usr/bin/env bash
# DPG-Bench's own program (ELLA commit 3c228f1) on a folder of `evalsuite export --format dpg`.
#
# Usage: dpg.sh IMAGES OUTPUT RESOLUTION, the side of one cell. Needs an environment with modelscope,
# accelerate and what mPLUG's pipeline imports (fairseq, OFA); ELLA, a checkout of the repository;
# ELLA_PYTHON, that environment's python. One process: with several the categories are mixed up.
set -euo pipefail
absolute() { case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }  # before it changes folder
images=$(absolute "$1") output=$(absolute "$2") resolution=$3
: "${ELLA:?the checkout of ELLA}"
ELLA=$(absolute "$ELLA")
python=$(command -v "${ELLA_PYTHON:-python}") || { echo "ELLA_PYTHON is no program" >&2; exit 1; }
python=$(absolute "$python")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$ELLA"
"$python" -m accelerate.commands.launch --num_processes 1 dpg_bench/compute_dpg_bench.py \
    --image-root-path "$images" --resolution "$resolution" --pic-num 4 --vqa-model mplug \
    --res-path "$work/results.txt" > "$work/log" 2>&1 || { tail -n 1 "$work/log" >&2; exit 1; }
"$python" - "$work/log" "$output" <<'PYTHON'
import json, re, sys
text = open(sys.argv[1]).read()
scores = {"overall": float(re.search(r"DPG-Bench score: ([\d.]+)", text)[1])}
scores["dropped_files"] = len(re.findall(r"^Failed filename:", text, re.M))
l1 = text.partition("L1 category scores:")[2].partition("L2 category scores:")[0]
scores |= {f"unreliable_{k}": float(v) for k, v in re.findall(r"^\t(\w+): ([\d.]+)", l1, re.M)}
json.dump(scores, open(sys.argv[2], "w"))
PYTHON
