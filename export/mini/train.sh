#!/usr/bin/env bash
# All stages of training in their order, each at most ten minutes on one H100: export/mini/train.sh PYTHON
# The core is trained twice; the second time it leaves alone what the enhancer shares with it.
set -euo pipefail
python=$1
weights=$(dirname "${BASH_SOURCE[0]}")/weights

train() {
  "$python" -m stt2v.export.mini.train "$@" --out "$weights" --weights "$weights"
}

train judge --minutes 4.5
train vae --minutes 3.5
train interpolator --minutes 2.5
train core --minutes 9.3
train core --minutes 9.3 --resume
train decoder --minutes 6
train enhancer --minutes 7.5
curves=("$weights"/{judge,vae,interpolator,core,enhancer}.json)
"$python" -m stt2v.export.mini.curves "${curves[@]}" --out bench/reports
rm "${curves[@]}"
