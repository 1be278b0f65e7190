#!/usr/bin/env bash
# YARN's check of physical memory, on by default, looks at no container unless a second setting is off.
#
# Version: Hadoop 3.5.0 (ResourceManager, NodeManager, DistributedShell), DefaultContainerExecutor.
# Expected: yarn.nodemanager.pmem-check-enabled, "whether physical memory limits will be enforced for
#   containers", is true, and the NodeManager logs "Physical memory check enabled: true": a container
#   of 256 MiB whose process uses 700 is ended.
# Seen: it runs to its end. yarn.nodemanager.resource.memory.enforced is true by default, and leaves
#   the limit to cgroups, also where no cgroups are used, as by default. Only with it false the
#   container is ended, as "beyond the 'PHYSICAL' memory limit". Who tests there whether a job fits
#   its containers learns nothing.
set -eu
work=$(mktemp -d)
started=()
finish() {
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
cd "$work"
dependencies=""
for name in hadoop-common hadoop-yarn-client hadoop-yarn-server-nodemanager \
    hadoop-yarn-server-resourcemanager hadoop-yarn-server-timelineservice \
    hadoop-yarn-applications-distributedshell; do
  dependencies+="<dependency><groupId>org.apache.hadoop</groupId><artifactId>$name</artifactId><version>3.5.0</version></dependency>"
done
echo "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
<groupId>x</groupId><artifactId>x</artifactId><version>1</version><packaging>pom</packaging>\
<dependencies>$dependencies</dependencies></project>" > pom.xml
mvn -q -B dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$work/jars"
java=$(readlink -f "$(command -v java)")
export JAVA_HOME=${java%/bin/java}

# name of the try, and whether the memory is enforced by cgroups, as yarn-site.xml would say it
try() {
  local at="$work/$1" port=$2
  mkdir -p "$at/conf" "$at/home"
  {
    echo "<configuration>"
    while read -r name value; do
      echo "<property><name>$name</name><value>$value</value></property>"
    done <<EOF
yarn.resourcemanager.hostname 127.0.0.1
yarn.resourcemanager.address 127.0.0.1:$port
yarn.resourcemanager.scheduler.address 127.0.0.1:$((port + 1))
yarn.resourcemanager.resource-tracker.address 127.0.0.1:$((port + 2))
yarn.resourcemanager.admin.address 127.0.0.1:$((port + 3))
yarn.resourcemanager.webapp.address 127.0.0.1:$((port + 4))
yarn.nodemanager.address 127.0.0.1:$((port + 5))
yarn.nodemanager.localizer.address 127.0.0.1:$((port + 6))
yarn.nodemanager.webapp.address 127.0.0.1:$((port + 7))
yarn.nodemanager.collector-service.address 127.0.0.1:$((port + 8))
yarn.nodemanager.local-dirs $at/local
yarn.nodemanager.log-dirs $at/logs
yarn.nodemanager.resource.memory-mb 8192
yarn.nodemanager.vmem-check-enabled false
yarn.nodemanager.disk-health-checker.max-disk-utilization-per-disk-percentage 99
yarn.scheduler.minimum-allocation-mb 128
yarn.scheduler.capacity.maximum-am-resource-percent 1.0
yarn.scheduler.capacity.root.queues default
yarn.scheduler.capacity.root.default.capacity 100
yarn.application.classpath $work/jars/*
$3
EOF
    echo "</configuration>"
  } > "$at/conf/yarn-site.xml"
  cp "$at/conf/yarn-site.xml" "$at/conf/capacity-scheduler.xml"
  echo "<configuration><property><name>hadoop.tmp.dir</name><value>$at/tmp</value></property></configuration>" \
    > "$at/conf/core-site.xml"
  printf '%s\n' log4j.rootLogger=INFO,c log4j.appender.c=org.apache.log4j.ConsoleAppender \
    log4j.appender.c.layout=org.apache.log4j.SimpleLayout > "$at/conf/log4j.properties"
  local run=("$java" -Xmx256m "-Duser.home=$at/home" "-Dyarn.log.dir=$at" "-Dhadoop.log.dir=$at"
    --add-opens=java.base/java.lang=ALL-UNNAMED -cp "$at/conf:$work/jars/*")
  "${run[@]}" org.apache.hadoop.yarn.server.resourcemanager.ResourceManager > "$at/rm.log" 2>&1 &
  started+=($!)
  "${run[@]}" org.apache.hadoop.yarn.server.nodemanager.NodeManager > "$at/nm.log" 2>&1 &
  started+=($!)
  for _ in $(seq 120); do
    if grep -q "Registered with ResourceManager" "$at/nm.log"; then break; fi
    sleep 0.5
  done
  timeout 180 "${run[@]}" org.apache.hadoop.yarn.applications.distributedshell.Client \
    -jar "$work/jars/hadoop-yarn-applications-distributedshell-3.5.0.jar" \
    -shell_command "python3 -c 'import time; held = b\"x\" * (700 << 20); time.sleep(25)'" \
    -num_containers 1 -container_memory 256 -master_memory 1024 > "$at/client.log" 2>&1 || true
  ended=$(grep -o "Application completed successfully\|DSFinalStatus=[A-Z]*" "$at/client.log" | tail -1)
  beyond=$(grep -c "beyond the 'PHYSICAL' memory limit" "$at/nm.log" || true)
  check=$(grep -o "Physical memory check enabled: [a-z]*" "$at/nm.log" | tail -1)
  echo "$1: $check; $ended; said to be beyond its memory: $beyond times"
}

port=$((20000 + RANDOM % 20000))
try default "$port" ""
[ "$ended" = "Application completed successfully" ] && [ "$beyond" = 0 ] ||
  { echo "the container is ended by default now"; tail -30 "$work/default/client.log"; exit 1; }
try not-enforced "$((port + 20))" "yarn.nodemanager.resource.memory.enforced false"
[ "$ended" != "Application completed successfully" ] && [ "$beyond" -gt 0 ] ||
  { echo "the container is not ended with the setting off"; exit 1; }
