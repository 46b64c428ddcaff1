# Sourced by `servers`: finds each server's program, or installs it once.
# Debian's packages are installed when we are root; else the message names what to install. What is not packaged
# (Kafka, the S3 server) is kept in the user's cache folder, under its version.

CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/tidemill"
# 0.14.1 is the newest that the compiler of this workspace builds; it keeps objects as files, so they survive a restart.
S3S_VERSION=0.14.1
S3S_BIN="$CACHE/s3s-fs-$S3S_VERSION/bin/s3s-fs"
KAFKA_VERSION=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$HERE/kafka.pom.xml")
KAFKA_LIBS="$CACHE/kafka-$KAFKA_VERSION/libs"
JAVA_MAJOR_NEEDED=17

# Debian keeps mariadbd in a folder that is on root's path only.
PATH="$PATH:/usr/sbin:/usr/local/sbin"

# Installs Debian packages, or says which to install. The first of `a|b` that the machine's Debian has is taken.
packages() {
  local wanted=() choice name found
  for choice in "$@"; do
    found=
    for name in ${choice//|/ }; do
      if [[ -z $found ]] && apt-cache show "$name" >/dev/null 2>&1; then found=$name; fi
    done
    wanted+=("${found:-${choice%%|*}}")
  done
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    fail "not installed: please run: sudo apt-get install --no-install-recommends ${wanted[*]}"
  fi
  say "installing ${wanted[*]}"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" >&2 ||
    fail "failed to install ${wanted[*]} by apt-get"
}

# The package lists of a fresh machine or image are empty: fetched once, before the first package.
package_lists() {
  if [[ -z ${PACKAGE_LISTS:-} && $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    apt-get update -qq >&2 || say "apt-get update failed; trying with the lists that are there"
  fi
  PACKAGE_LISTS=fresh
}

install_mariadb() {
  if command -v mariadbd mariadb-install-db mariadb >/dev/null; then return; fi
  package_lists
  # The core packages hold the programs and start no system-wide server.
  packages mariadb-server-core mariadb-client-core
}

java_major() {
  java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1
}

install_kafka() {
  local java
  java=$(command -v java >/dev/null && java_major || true)
  if [[ -z $java || $java -lt $JAVA_MAJOR_NEEDED ]]; then
    package_lists
    packages "openjdk-21-jre-headless|openjdk-17-jre-headless"
  fi
  if [[ -d $KAFKA_LIBS ]]; then return; fi
  if ! command -v mvn >/dev/null; then
    package_lists
    packages maven
  fi
  say "fetching Apache Kafka $KAFKA_VERSION from Maven Central"
  local part
  part=$(mktemp -d "$CACHE/kafka.XXXXXX")
  # Maven prints nothing when all goes well; its own tries are bounded by its time-outs.
  mvn -B -q -f "$HERE/kafka.pom.xml" dependency:copy-dependencies "-DoutputDirectory=$part/libs" >&2 ||
    fail "failed to fetch Apache Kafka $KAFKA_VERSION from Maven Central"
  rm -rf "${KAFKA_LIBS%/libs}"
  mv "$part" "${KAFKA_LIBS%/libs}"
}

# The Python that has aiosmtpd: the user's own, or Debian's, for which the package is.
smtp_python() {
  local python
  for python in python3 /usr/bin/python3; do
    if "$python" -c 'import aiosmtpd.smtp' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  return 1
}

install_smtp() {
  if smtp_python >/dev/null && command -v openssl >/dev/null; then return; fi
  package_lists
  packages python3-aiosmtpd openssl
  smtp_python >/dev/null || fail "python3 still finds no module aiosmtpd"
}

install_s3() {
  if [[ -x $S3S_BIN ]]; then return; fi
  say "building s3s-fs $S3S_VERSION, about two minutes, once"
  local target
  target=$(mktemp -d "$CACHE/build.XXXXXX")
  cargo install -q s3s-fs --version "$S3S_VERSION" --locked --features binary \
    --root "$CACHE/s3s-fs-$S3S_VERSION" --target-dir "$target" >&2 ||
    fail "failed to build s3s-fs $S3S_VERSION with cargo install"
  rm -rf "$target"
}
