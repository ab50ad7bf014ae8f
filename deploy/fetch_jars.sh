#!/usr/bin/env bash
# Fetches the jars of deploy/pom.xml with Maven, compiles the job's functions, and lays all out in a
# folder that appears whole or not at all:
#
#   deploy/fetch_jars.sh [DIRECTORY [OPTIONS OF MAVEN]]    default: .deploy/jars of the checkout
#   deploy/fetch_jars.sh --record           after a version was changed: writes the checksums anew
#
# Everything is compared with deploy/checksums.sha256: the jars that are run, by every Maven, and from
# Maven 3.9 on also each plugin and each pom, before it is used. A download without a checksum, or
# with another one than its server says, is refused too (-C).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checksums="$here/checksums.sha256"

maven() {
  mvn -q -B -C -f "$here/pom.xml" package \
    -Daether.trustedChecksumsSource.summaryFile=true \
    -Daether.trustedChecksumsSource.summaryFile.originAware=false \
    -Daether.trustedChecksumsSource.summaryFile.basedir="$here" \
    -Daether.artifactResolver.postProcessor.trustedChecksums=true \
    -Daether.artifactResolver.postProcessor.trustedChecksums.checksumAlgorithms=SHA-256 \
    "$@"
}

verify() {
  local jar expected found
  while IFS= read -r -d '' jar; do
    [ "${jar##*/}" = sparc-streaming.jar ] && continue # compiled here
    expected=$(awk -v name="/${jar##*/}" 'substr($2, length($2) - length(name) + 1) == name { print $1 }' "$checksums")
    found=$(sha256sum <"$jar" | cut -d' ' -f1)
    [ "$expected" = "$found" ] || {
      echo "error: ${jar##*/} is not the file of deploy/checksums.sha256: it has SHA-256 $found. Remove it from Maven's local repository and try again; if it stays so, the server that it comes from is not to be trusted" >&2
      return 1
    }
  done < <(find "$1" -name '*.jar' -print0)
}

if [ "${1:-}" = --record ]; then
  temporary=$(mktemp -d)
  trap 'rm -rf "$temporary"' EXIT
  # An empty local repository: what lies in the usual one is not asked for again.
  rm -f "$checksums"
  maven "-Ddest=$temporary/jars" "-Dmaven.repo.local=$temporary/repository" \
    -Daether.artifactResolver.postProcessor.trustedChecksums.record=true
  LC_ALL=C sort -k 2 -o "$checksums" "$checksums"
  verify "$temporary/jars"
  exit
fi

jars=${1:-$here/../.deploy/jars}
mkdir -p "$(dirname "$jars")"
jars=$(cd "$(dirname "$jars")" && pwd)/$(basename "$jars")
partial="$jars.partial"
rm -rf "$partial"
maven "-Ddest=$partial" "${@:2}" \
  -Daether.artifactResolver.postProcessor.trustedChecksums.failIfMissing=true
verify "$partial"
rm -rf "$jars" "$partial/build"
mv "$partial" "$jars"
