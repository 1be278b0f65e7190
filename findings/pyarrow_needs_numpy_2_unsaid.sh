#!/usr/bin/env bash
# pyarrow 26 cannot be imported beside NumPy 1, which nothing in its metadata says.
#
# Versions: pyarrow 26.0.1 and 25.0.1, numpy 1.26.4, Python 3.11.
# Expected: pip refuses to install pyarrow 26 beside NumPy 1, or "pip check" complains, as its release
#   needs NumPy 2.
# Seen: both are content, as pyarrow's metadata names no NumPy at all, and import pyarrow raises
#   ImportError. So whoever is held at NumPy 1 (TensorFlow up to 2.17 for one) has to ask for
#   "pyarrow<26", which imports.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
python=$work/venv/bin/python
for version in 25.0.1 26.0.1; do
  "$python" -m pip install --quiet numpy==1.26.4 "pyarrow==$version"
  echo "pyarrow $version: pip check says: $("$python" -m pip check)"
  "$python" -c 'import pyarrow' 2>"$work/said" && echo "  imported" || tail -1 "$work/said"
done
grep -q "pyarrow requires NumPy 2.0 or newer" "$work/said"
