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

case "$root" in
*[:\\{}[:cntrl:]$]*)
  fail "the path of this checkout has a colon, a backslash, a brace, a dollar sign or a control character, which Python's packaging or Java's class path cannot hold; move it: $root"
  ;;
esac

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

# A variable that is meant for another Python would lead pip and uv somewhere else.
unset PYTHONHOME PYTHONPATH PYTHONSTARTUP PYTHONOPTIMIZE PYTHONWARNINGS PYTHONSAFEPATH PYTHONUTF8 \
  PYTHONPLATLIBDIR PYTHONUSERBASE VIRTUAL_ENV CONDA_PREFIX \
  PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER PIP_REQUIRE_VIRTUALENV PIP_CONSTRAINT PIP_REQUIREMENT \
  UV_PYTHON UV_SYSTEM_PYTHON UV_TARGET UV_PREFIX UV_CONSTRAINT UV_OVERRIDE UV_EXCLUDE_NEWER \
  UV_PROJECT UV_PROJECT_ENVIRONMENT UV_WORKING_DIRECTORY UV_CONFIG_FILE

# pip, uv and Maven keep caches at home; a bare user id of a container has none.
repository=
if [ ! -d "${HOME:-}" ] || [ ! -w "${HOME:-}" ]; then
  export HOME="$state/home"
  repository="$HOME/.m2/repository" # Java asks the password file, not HOME
fi

python_stamp() {
  cat "$root/requirements.lock" "$root/pyproject.toml" "$root/deploy/uv.txt" "$root/deploy/set_up.sh" | sha256sum | cut -d' ' -f1
}

jars_stamp() {
  find "$root/deploy/pom.xml" "$root/deploy/checksums.sha256" "$root/streaming/java" -type f -print0 | LC_ALL=C sort -z |
    xargs -0 cat | sha256sum | cut -d' ' -f1
}

python_is_ready() {
  [ "$(cat "$state/python.stamp" 2>/dev/null)" = "$(python_stamp)" ] && [ -x "$root/.venv/bin/sparc" ]
}

jars_are_ready() {
  [ "$(cat "$state/jars.stamp" 2>/dev/null)" = "$(jars_stamp)" ] && [ -d "$state/jars/kafka" ]
}

set_up_python() {
  local python
  python_is_ready && return
  python=$(find_python) || exit 1
  # Without a stamp a set-up was interrupted (or is the first): what it left may be half a package.
  if [ ! -e "$state/python.stamp" ]; then rm -rf "$root/.venv"; fi
  rm -f "$state/python.stamp"
  say "installing the pinned Python packages into .venv (about 8 GB with torch's CUDA libraries)"
  [ -x "$root/.venv/bin/python" ] || "$python" -m venv "$root/.venv" ||
    fail "could not create .venv; install the venv module (for example: apt-get install python3.11-venv)"
  # The commands in .venv/bin then find Python beside them, whatever the path of the checkout is.
  grep -qs '^relocatable' "$root/.venv/pyvenv.cfg" || echo 'relocatable = true' >>"$root/.venv/pyvenv.cfg"
  "$root/.venv/bin/python" -m pip install --quiet --require-hashes -r "$root/deploy/uv.txt" ||
    fail "could not install uv into .venv: is the Python package registry reachable?"
  "$root/.venv/bin/uv" pip install --quiet --python "$root/.venv/bin/python" --compile-bytecode \
    --require-hashes -r "$root/requirements.lock" ||
    fail "could not install the packages of requirements.lock; see the message above"
  # From within, as uv reads a path like a requirement: ` #` and ` ;` would end it.
  (cd "$root" && "$root/.venv/bin/uv" pip install --quiet --python "$root/.venv/bin/python" \
    --no-deps --no-build-isolation -e .) ||
    fail "could not install this project into .venv; see the message above"
  # Isolated (-I): a foreign package named `model` or `deploy` on PYTHONPATH is not taken for ours.
  rm -f "$root/.venv/bin/sparc"
  cat >"$root/.venv/bin/sparc" <<'EOF'
#!/bin/sh
exec "$(dirname "$(readlink -f "$0")")/python" -I -m deploy "$@"
EOF
  chmod +x "$root/.venv/bin/sparc"
  python_stamp >"$state/python.stamp"
}

set_up_jars() {
  jars_are_ready && return
  command -v mvn >/dev/null 2>&1 ||
    fail "no Maven: 'mvn' was not found; install it (for example: apt-get install maven)"
  say "fetching Kafka and the Flink connector, and compiling the job's functions, by deploy/pom.xml"
  rm -f "$state/jars.stamp"
  "$root/deploy/fetch_jars.sh" "$state/jars" ${repository:+"-Dmaven.repo.local=$repository"} >&2 ||
    fail "Maven could not fetch the jars of deploy/pom.xml; see the message above"
  jars_stamp >"$state/jars.stamp"
}

check_java
# A checkout that may not be written to is fine once it is set up (an image, a shared folder).
if ! python_is_ready || ! jars_are_ready; then
  mkdir -p "$state" && mkdir -p "$HOME" || fail "cannot write to $root: set it up once as a user who may"
  exec 9>"$state/lock"
  flock 9 # two commands started at once on a fresh clone must not install over each other
  set_up_python
  set_up_jars
  exec 9>&-
fi
