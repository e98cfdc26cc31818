#!/usr/bin/env bash
# GenEval's own program (commit af4902f) on a folder of `evalsuite export --format geneval`.
#
# Needs an environment with python 3.9, torch 1.12.1, mmcv-full 1.7.1 with its CUDA operations,
# mmdet 2.27.0, open-clip-torch 2.20.0, clip-benchmark 1.4.0, numpy 1.23.1, pandas 1.5.3 and
# pillow 9.4.0; GENEVAL, a checkout of the repository; GENEVAL_PYTHON, that environment's python;
# GENEVAL_DETECTOR, the folder with mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.pth (mmdet 2's).
set -euo pipefail
absolute() { case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }  # before it changes folder
images=$(absolute "$1") output=$(absolute "$2")
: "${GENEVAL:?the checkout of GenEval}" "${GENEVAL_DETECTOR:?the folder of the detector}"
GENEVAL=$(absolute "$GENEVAL") GENEVAL_DETECTOR=$(absolute "$GENEVAL_DETECTOR")
python=$(command -v "${GENEVAL_PYTHON:-python}") || { echo "GENEVAL_PYTHON is no program" >&2; exit 1; }
python=$(absolute "$python")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$GENEVAL/evaluation"
"$python" evaluate_images.py "$images" --outfile "$work/results.jsonl" \
    --model-path "$GENEVAL_DETECTOR" > "$work/log" 2>&1 || { tail -n 1 "$work/log" >&2; exit 1; }
if grep -q "no kernel image" "$work/log"; then
    echo "mmcv was not built for this GPU: its results are worthless" >&2
    exit 1
fi
"$python" summary_scores.py "$work/results.jsonl" > "$work/summary"
"$python" - "$work/summary" "$output" <<'PYTHON'
import json, re, sys
text = open(sys.argv[1]).read()
scores = {tag: float(share) / 100 for tag, share in re.findall(r"^(\w+)\s+= ([\d.]+)%", text, re.M)}
scores["overall"] = float(re.search(r"Overall score \(avg\. over tasks\): ([\d.]+)", text)[1])
json.dump(scores, open(sys.argv[2], "w"))
PYTHON
