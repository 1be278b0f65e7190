#!/usr/bin/env bash
# venv-pack packs an environment with an editable install, and leaves the package out.
#
# Version: venv-pack 0.2.0, setuptools 80.9.0.
# Expected: "Cannot pack an environment with editable packages installed", as the package says for
#   them: what is installed as editable lies outside of the environment.
# Seen: exit status 0 and no word. It looks for folders in .pth files; the .pth of an editable
#   install of setuptools (64 and newer) imports a finder of modules instead. The archive has the
#   finder, with the path of the source folder in it: where that folder is not, as on the nodes of a
#   cluster that the archive is sent to, the package cannot be imported. With a folder in the .pth
#   file (editable_mode=compat) it refuses.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/tools"
"$work/tools/bin/python" -m pip install --quiet venv-pack==0.2.0 setuptools==80.9.0
mkdir -p "$work/project/alpha"
cd "$work"
echo 'VALUE = 1' > project/alpha/__init__.py
cat > project/pyproject.toml <<'TOML'
[build-system]
requires = ["setuptools==80.9.0"]
build-backend = "setuptools.build_meta"
[project]
name = "alpha"
version = "1.0"
TOML

pack() {  # NAME [pip's options]: an environment with alpha in it, packed
  local name=$1
  shift
  python3 -m venv "$name"
  "$name/bin/python" -m pip install --quiet "$@" --editable project
  "$name/bin/python" -c 'import alpha'
  tools/bin/venv-pack --prefix "$name" --output "$name.tar.gz" --quiet 2> "$name.said"
}

pack new
echo "venv-pack ended well, and said: '$(cat new.said)'"
if tar -tzf new.tar.gz | grep alpha/__init__; then
  echo "the package is in the archive now"
  exit 1
fi
mkdir unpacked
tar -xzf new.tar.gz -C unpacked
mv project moved  # another machine has no such folder
if unpacked/bin/python -c 'import alpha' 2> said; then
  echo "the package is found now"
  exit 1
fi
tail -1 said
mv moved project
if pack old --config-settings editable_mode=compat; then
  echo "it packs the other kind, too"
  exit 1
fi
grep editable old.said
