#!/usr/bin/env bash
# A quarter of TensorFlow's largest library is symbols that nothing reads.
#
# Version: tensorflow-cpu 2.21.0, for Linux on x86_64.
# Expected: the libraries of a released wheel are stripped, the more so of one whose package exists to be
#   small; what is left to take out are its headers.
# Seen: libtensorflow_cc.so.2 has a .symtab and a .strtab of 205 MB of its 788 (that of tensorflow 220 of
#   1096). strip --strip-unneeded takes them out, and TensorFlow is imported and computes as before.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cd "$work"
venv/bin/python -m pip install --quiet tensorflow-cpu==2.21.0
library=$(echo venv/lib/python3*/site-packages/tensorflow/libtensorflow_cc.so.2)
before=$(stat -c %s "$library")
strip --strip-unneeded "$library"
after=$(stat -c %s "$library")
echo "$((before / 1000000)) MB, and stripped $((after / 1000000))"
[ $((before - after)) -gt 150000000 ]
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python -c 'import tensorflow as tf; print("sum:", float(tf.reduce_sum(tf.ones(7))))' |
  grep 'sum: 7.0'
