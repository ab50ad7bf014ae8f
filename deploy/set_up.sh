# Sourced by start_pipeline.sh and run_tests.sh: makes `.venv` and fetches the jars, once.
# Idempotent: what is there already is recognised by the digests of what they are made from, so a second start spends a fraction of a second here.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
state="$root/.deploy"

fail() {
  echo "error: $1" >&2
  exit 1
}

say() { echo "set-up: $1" >&2; }

find_python() {
  local candidate
  for candidate in python3.11 python3.12 python3; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "Python 3.11 is not on the PATH; install it (for example: apt-get install python3.11 python3.11-venv)"
}

check_java() {
  local java="${JAVA_HOME:+$JAVA_HOME/bin/}java" version
  command -v "$java" >/dev/null 2>&1 ||
    fail "no JDK: '$java' was not found; install JDK 17 (for example: apt-get install openjdk-17-jdk-headless) or set JAVA_HOME"
  version=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
  [ "${version:-0}" -ge 17 ] ||
    fail "JDK ${version:-of unknown version} is too old: Kafka 4 needs JDK 17; install it or point JAVA_HOME at it"
}

set_up_python() {
  local python stamp
  stamp=$(cat "$root/requirements.lock" "$root/pyproject.toml" | sha256sum | cut -d' ' -f1)
  if [ "$(cat "$state/python.stamp" 2>/dev/null)" = "$stamp" ] && [ -x "$root/.venv/bin/sparc" ]; then
    return
  fi
  python=$(find_python) || exit 1
  say "installing the pinned Python packages into .venv (about 8 GB with torch's CUDA libraries)"
  [ -x "$root/.venv/bin/python" ] || "$python" -m venv "$root/.venv" ||
    fail "could not create .venv; install the venv module (for example: apt-get install python3.11-venv)"
  [ -x "$root/.venv/bin/uv" ] || "$root/.venv/bin/python" -m pip install --quiet uv ||
    fail "could not install uv into .venv: is the Python package registry reachable?"
  "$root/.venv/bin/uv" pip install --quiet --python "$root/.venv/bin/python" --compile-bytecode \
    --require-hashes -r "$root/requirements.lock" ||
    fail "could not install the packages of requirements.lock; see the message above"
  "$root/.venv/bin/uv" pip install --quiet --python "$root/.venv/bin/python" \
    --no-deps --no-build-isolation -e "$root" ||
    fail "could not install this project into .venv; see the message above"
  echo "$stamp" >"$state/python.stamp"
}

set_up_jars() {
  local stamp
  stamp=$(find "$root/deploy/pom.xml" "$root/streaming/java" -type f -print0 | LC_ALL=C sort -z |
    xargs -0 cat | sha256sum | cut -d' ' -f1)
  if [ "$(cat "$state/jars.stamp" 2>/dev/null)" = "$stamp" ] && [ -d "$state/jars/kafka" ]; then
    return
  fi
  command -v mvn >/dev/null 2>&1 ||
    fail "no Maven: 'mvn' was not found; install it (for example: apt-get install maven)"
  say "fetching Kafka and the Flink connector, and compiling the job's functions, by deploy/pom.xml"
  rm -rf "$state/jars"
  mvn -q -B -f "$root/deploy/pom.xml" package "-Ddest=$state/jars" >&2 ||
    fail "Maven could not fetch the jars of deploy/pom.xml; see the message above"
  echo "$stamp" >"$state/jars.stamp"
}

mkdir -p "$state" || fail "cannot write to $root"
check_java
exec 9>"$state/lock"
flock 9 # two commands started at once on a fresh clone must not install over each other
set_up_python
set_up_jars
exec 9>&-
