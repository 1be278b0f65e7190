#!/usr/bin/env bash
# The command line of hdfs-native does not take hdfs:///path, its own client does.
#
# Version: hdfs-native 0.14.7.
# Expected: `hdfsn ls hdfs:///path` asks the NameNode of fs.defaultFS, as Hadoop's own `hdfs dfs` does with a
#   URL that names none, and as hdfs_native.Client("hdfs:///") does.
# Seen: "No NameNode hosts found" without a look at fs.defaultFS. hdfsn puts the URL together again from its
#   parts and so asks for the host "None". A path without a scheme, `hdfsn ls /path`, is taken.
set -euf
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet hdfs-native==0.14.7 argcomplete==3.7.2
mkdir "$work/conf"
# nobody listens at this port: who asks there is refused
echo '<configuration><property><name>fs.defaultFS</name><value>hdfs://127.0.0.1:9</value></property></configuration>' \
  > "$work/conf/core-site.xml"
export HADOOP_CONF_DIR="$work/conf"
client=$("$work/venv/bin/python" - <<'PY'
from hdfs_native import Client

try:
    print(Client("hdfs:///").get_file_info("/path"))
except OSError as error:
    print(error)
PY
)
shell=$(timeout 60 "$work/venv/bin/hdfsn" ls hdfs:///path 2>&1 | tail -n 1 || true)
echo "Client(\"hdfs:///\"): $client"
echo "hdfsn ls hdfs:///path: $shell"
case $client in *"Connection refused"*) ;; *) echo "the client does not ask 127.0.0.1:9"; exit 1 ;; esac
case $shell in *"No NameNode hosts found"*) ;; *) echo "hdfsn asks the default NameNode now"; exit 1 ;; esac
