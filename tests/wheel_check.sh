#!/usr/bin/env bash
# Builds sdist and wheel (the wheel from the sdist), installs the wheel into an empty environment far from the checkout
# and makes a video there: proves that no file is missing from the package.
set -euo pipefail
python=$(realpath -s "${1:-.venv/bin/python}")
repository=$(cd "$(dirname "$0")/.." && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

cd "$place"
"$python" -m build --outdir dist "$repository"
"$python" -m venv venv
venv/bin/pip install --quiet "$(echo dist/*.whl)[cpu]"
venv/bin/stt2v --version
venv/bin/stt2v generate --image "$repository/tests/data/landscape.jpg" --num-frames 2 --output video.mp4
test -s video.mp4
echo "wheel-check: $(basename dist/*.whl) works"
