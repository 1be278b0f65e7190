# Sourced by bin/pl_submit, bin/test and bin/bench: makes .venv on first use, and again when pyproject.toml changes.
# Usage: tfos_venv ROOT [EXTRA]; leaves the interpreter's path in $TFOS_PYTHON.
tfos_venv() {
  local root=$1 extra=${2:-} venv=$1/.venv base="" candidate stamp want
  TFOS_PYTHON=$venv/bin/python
  stamp=$venv/.tfos-installed${extra:+-$extra}
  want=$(cksum < "$root/pyproject.toml")
  if [ -x "$TFOS_PYTHON" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
    return 0
  fi
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
       "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      base=$candidate
      break
    fi
  done
  if [ -z "$base" ]; then
    echo "tfos: no Python 3.10 or newer found; install one, or name it: PYTHON=/path/to/python3 $0" >&2
    return 1
  fi
  (
    # two first uses at the same time: the second waits for the first
    if command -v flock >/dev/null 2>&1; then flock 9; fi
    if [ -x "$TFOS_PYTHON" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then exit 0; fi
    echo "tfos: first use: making $venv (TensorFlow and Spark are large; this takes minutes)" >&2
    # one that was interrupted while it was made has no pip
    "$TFOS_PYTHON" -m pip --version >/dev/null 2>&1 || "$base" -m venv --clear "$venv" || exit 1
    "$TFOS_PYTHON" -m pip install --quiet --editable "$root${extra:+[$extra]}" >&2 || {
      echo "tfos: pip could not install tfos into $venv (see above); run the command again to retry" >&2
      exit 1
    }
    echo "$want" > "$stamp"
  ) 9>"$root/.venv.lock"
}
