#!/usr/bin/env bash
# hdfs-native finds no delegation token for a NameNode that is named by its host name.
#
# Version: hdfs-native 0.14.7, Hadoop 3.5.0 (a NameNode, and MiniKdc for Kerberos), with MIT's
#   libgssapi_krb5 of the system.
# Expected: with HADOOP_TOKEN_FILE_LOCATION set, as YARN sets it in each container, a client of
#   hdfs://localhost:PORT takes the token that Hadoop has issued for that NameNode, as Java's does.
# Seen: Hadoop names a token by the NameNode's IP address (hadoop.security.token.service.use_ip is
#   true by default), hdfs-native looks for the text "localhost:PORT", finds none and turns to
#   Kerberos, for which a container has no ticket: GSS_S_NO_CRED. hdfs://127.0.0.1:PORT works with
#   the same file.
set -euf
work=$(mktemp -d)
trap '[ -z "${pids-}" ] || kill $pids 2>/dev/null || true; rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet hdfs-native==0.14.7 fsspec==2026.9.0
cd "$work"
cat > pom.xml <<'XML'
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>a</groupId><artifactId>a</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.hadoop</groupId><artifactId>hadoop-common</artifactId><version>3.5.0</version></dependency>
    <dependency><groupId>org.apache.hadoop</groupId><artifactId>hadoop-hdfs</artifactId><version>3.5.0</version></dependency>
    <dependency><groupId>org.apache.hadoop</groupId><artifactId>hadoop-hdfs-client</artifactId><version>3.5.0</version></dependency>
    <dependency><groupId>org.apache.hadoop</groupId><artifactId>hadoop-minikdc</artifactId><version>3.5.0</version></dependency>
  </dependencies>
</project>
XML
mvn -q -B dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$work/jars" >/dev/null
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
java="java -Xmx256m -Djava.security.krb5.conf=$work/krb5.conf"
java="$java --add-opens=java.base/java.lang=ALL-UNNAMED -cp $work/conf:$work/jars/*"
mkdir -p conf/webapps/hdfs
printf 'org.name=A\norg.domain=TEST\nkdc.bind.address=127.0.0.1\nkdc.port=%s\ntransport=TCP\n' \
  "$(port)" > kdc.properties
$java org.apache.hadoop.minikdc.MiniKdc "$work" kdc.properties keys hdfs/localhost HTTP/localhost \
  > kdc.log 2>&1 & pids=$!
until grep -qs 'created keytab' kdc.log; do kill -0 $pids; sleep 0.2; done
rpc=$(port)
property() { printf '<property><name>%s</name><value>%s</value></property>\n' "$1" "$2"; }
{
  echo '<configuration>'
  property fs.defaultFS "hdfs://127.0.0.1:$rpc"
  property hadoop.security.authentication kerberos
  echo '</configuration>'
} > conf/core-site.xml
{
  echo '<configuration>'
  property dfs.namenode.name.dir "file://$work/name"
  property dfs.namenode.http-address "127.0.0.1:$(port)"
  property dfs.namenode.kerberos.principal hdfs/localhost@A.TEST
  property dfs.namenode.keytab.file "$work/keys"
  property dfs.web.authentication.kerberos.principal HTTP/localhost@A.TEST
  property dfs.web.authentication.kerberos.keytab "$work/keys"
  property dfs.block.access.token.enable true
  echo '</configuration>'
} > conf/hdfs-site.xml
namenode=org.apache.hadoop.hdfs.server.namenode.NameNode
$java $namenode -format -nonInteractive > format.log 2>&1
$java $namenode > namenode.log 2>&1 & pids="$pids $!"
export HADOOP_CONF_DIR="$work/conf" KRB5_CONFIG="$work/krb5.conf"
cat > look.py <<'PY'
import sys

from hdfs_native import Client

try:
    print(Client(sys.argv[1]).get_file_info("/").path)
except Exception as error:
    print("GSS_S_NO_CRED" if "GSS_S_NO_CRED" in str(error) else error)
PY
look() { "$work/venv/bin/python" look.py "$1"; }
# with a keytab, which also leaves a ticket for Java
export KRB5CCNAME="FILE:$work/ticket"
for _ in $(seq 60); do
  [ "$(KRB5_CLIENT_KTNAME=$work/keys look "hdfs://localhost:$rpc")" = / ] && break
  sleep 1
done
$java org.apache.hadoop.hdfs.tools.DelegationTokenFetcher --renewer hdfs "$work/token" > fetch.log 2>&1
# as in a container: a token and no ticket
export KRB5CCNAME="FILE:$work/none" HADOOP_TOKEN_FILE_LOCATION="$work/token"
by_address=$(look "hdfs://127.0.0.1:$rpc")
by_name=$(look "hdfs://localhost:$rpc")
echo "hdfs://127.0.0.1: $by_address"
echo "hdfs://localhost: $by_name"
[ "$by_address" = / ] || { echo "the token is not taken at all"; exit 1; }
[ "$by_name" = GSS_S_NO_CRED ] || { echo "the token is found by the host's name now"; exit 1; }
