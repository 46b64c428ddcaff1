# Sourced by `servers`: finds each server's program, or installs it once.
# Debian's packages are installed when we are root; else the message names them. What a stable Debian does not
# package (MySQL, Kafka, the S3 server) is kept in the user's cache folder.

CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/tidemill"
# 0.14.1 is the newest that the compiler of this workspace builds; it keeps objects as files, so they survive a restart.
S3S_VERSION=0.14.1
S3S_BIN="$CACHE/s3s-fs-$S3S_VERSION/bin/s3s-fs"
KAFKA_VERSION=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$HERE/kafka.pom.xml")
KAFKA_LIBS="$CACHE/kafka-$KAFKA_VERSION/libs"
JAVA_MAJOR_NEEDED=17
# Debian has MySQL in sid alone: its packages are unpacked here with all libraries they need, never installed.
MYSQL_ROOT="$CACHE/mysql"
MYSQL_MIRROR=http://deb.debian.org/debian
DEBIAN_KEYS=/usr/share/keyrings/debian-archive-keyring.gpg

# Programs of the tests that are no servers: psql, and Python with drivers of PostgreSQL, MySQL and Kafka.
REQUIREMENTS=("$ROOT/tests/wire/requirements.txt" "$ROOT/tests/checker/requirements.txt")
PG_CLIENTS="$CACHE/clients-$(cat "${REQUIREMENTS[@]}" | cksum | cut -d' ' -f1)"

# Debian keeps mariadbd in a folder that is on root's path only.
PATH="$PATH:/usr/sbin:/usr/local/sbin"

# What each server needs of Debian's packages that is not there, one choice a word.
packages_for_mariadb() {
  # The core packages hold the programs and start no system-wide server.
  command -v mariadbd mariadb-install-db >/dev/null || echo mariadb-server-core
  command -v mariadb >/dev/null || echo mariadb-client-core
}

packages_for_mysql() {
  if [[ ! -d $MYSQL_ROOT && ! -e $DEBIAN_KEYS ]]; then echo debian-archive-keyring; fi
}

packages_for_kafka() {
  local java
  java=$(command -v java >/dev/null && java_major || true)
  if [[ ${java:-0} -lt $JAVA_MAJOR_NEEDED ]]; then echo "openjdk-21-jre-headless|openjdk-17-jre-headless"; fi
  if [[ ! -d $KAFKA_LIBS ]] && ! command -v mvn >/dev/null; then echo maven; fi
}

packages_for_smtp() {
  smtp_python >/dev/null || echo python3-aiosmtpd
  command -v openssl >/dev/null || echo openssl
}

packages_for_s3() { :; }

# Not a server: what the pipeline video_to_mp3 runs.
packages_for_programs() { command -v ffmpeg ffprobe >/dev/null || echo ffmpeg; }

packages_for_pg_clients() {
  command -v psql >/dev/null || echo postgresql-client
  python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
}

# Not a server of `servers` either: what scrapes a run, and promtool, which tests the alerts.
packages_for_telemetry() { command -v prometheus promtool >/dev/null || echo prometheus; }

# Installs what the named servers lack, all at once, or says what to install.
provide() {
  local name missing=()
  for name in "$@"; do
    mapfile -t -O "${#missing[@]}" missing < <("packages_for_$name")
  done
  if ((${#missing[@]} > 0)); then packages "${missing[@]}"; fi
  for name in "$@"; do
    if declare -F "fetch_$name" >/dev/null; then "fetch_$name"; fi
  done
}

# Installs Debian packages; of `a|b` the first that the machine's Debian has.
packages() {
  local root=
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then root=yes; fi
  if [[ -n $root ]]; then
    # The package lists of a fresh machine are empty, those of an old one name files that are gone.
    apt-get update -qq >&2 || say "apt-get update failed; trying with the lists that are there"
  fi
  local choice wanted=()
  for choice in "$@"; do wanted+=("$(available "$choice")"); done
  if [[ -z $root ]]; then
    fail "not installed: please run: sudo apt-get install --no-install-recommends ${wanted[*]}"
  fi
  say "installing ${wanted[*]}"
  # RUNLEVEL=1 keeps packages from starting system-wide servers.
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive quietly "$CACHE/apt.log" apt-get install -y --no-install-recommends "${wanted[@]}" ||
    fail "failed to install ${wanted[*]} by apt-get"
}

# Runs a command with its output in a log, of which the end is shown when it fails.
quietly() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 </dev/null 9>&- || {
    tail -n 30 "$log" >&2
    return 1
  }
}

available() {
  local name
  for name in ${1//|/ }; do
    if [[ -n $(apt-cache show "$name" 2>/dev/null) ]]; then
      echo "$name"
      return
    fi
  done
  echo "${1%%|*}"
}

java_major() {
  java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1
}

fetch_mysql() {
  if [[ -d $MYSQL_ROOT ]]; then return; fi
  say "fetching MySQL from Debian sid"
  local part
  part=$(mktemp -d "$CACHE/mysql.XXXXXX")
  quietly "$CACHE/mysql.log" unpack_mysql "$part" || {
    rm -rf "$part"
    fail "failed to fetch MySQL from Debian sid with apt-get; a MySQL given by TIDEMILL_TEST_MYSQL_URL is used instead"
  }
  rm -rf "$MYSQL_ROOT"
  mv "$part/root" "$MYSQL_ROOT"
  rm -rf "$part"
}

# With an apt of its own, to which nothing is installed: so all that MySQL needs down to the C library comes along.
unpack_mysql() {
  local part=$1 package
  mkdir -p "$part"/{root,state/lists/partial,cache/archives/partial}
  touch "$part/status"
  echo "deb [signed-by=$DEBIAN_KEYS] $MYSQL_MIRROR sid main" >"$part/sources.list"
  cat >"$part/apt.conf" <<CONF
Dir::State "$part/state";
Dir::State::status "$part/status";
Dir::Cache "$part/cache";
Dir::Etc::SourceList "$part/sources.list";
Dir::Etc::SourceParts "/dev/null";
Acquire::Languages "none";
APT::Install-Recommends "0";
APT::Sandbox::User "";
CONF
  APT_CONFIG="$part/apt.conf" apt-get update || return 1
  APT_CONFIG="$part/apt.conf" apt-get install -y --download-only mysql-server-core || return 1
  for package in "$part"/cache/archives/*.deb; do dpkg-deb -x "$package" "$part/root" || return 1; done
}

fetch_kafka() {
  if [[ -d $KAFKA_LIBS ]]; then return; fi
  say "fetching Apache Kafka $KAFKA_VERSION from Maven Central"
  local part
  part=$(mktemp -d "$CACHE/kafka.XXXXXX")
  quietly "$CACHE/maven.log" mvn -B -f "$HERE/kafka.pom.xml" dependency:copy-dependencies \
    "-DoutputDirectory=$part/libs" || {
    rm -rf "$part"
    fail "failed to fetch Apache Kafka $KAFKA_VERSION from Maven Central"
  }
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

fetch_pg_clients() {
  if [[ -x $PG_CLIENTS/bin/python ]]; then return; fi
  say "installing drivers of PostgreSQL, MySQL and Kafka for Python into $PG_CLIENTS"
  local part
  part=$(mktemp -d "$CACHE/clients.XXXXXX")
  { quietly "$CACHE/clients.log" python3 -m venv "$part" &&
    quietly "$CACHE/clients.log" "$part/bin/python" -m pip install --no-input --disable-pip-version-check \
      -r "${REQUIREMENTS[0]}" -r "${REQUIREMENTS[1]}"; } || {
    rm -rf "$part"
    fail "failed to install the drivers with pip"
  }
  rm -rf "$PG_CLIENTS"
  mv "$part" "$PG_CLIENTS"
}

fetch_s3() {
  if [[ -x $S3S_BIN ]]; then return; fi
  say "building s3s-fs $S3S_VERSION, a few minutes, once"
  local target
  target=$(mktemp -d "$CACHE/build.XXXXXX")
  quietly "$CACHE/s3s-fs.log" cargo install s3s-fs --version "$S3S_VERSION" --locked --features binary \
    --root "$CACHE/s3s-fs-$S3S_VERSION" --target-dir "$target" || {
    rm -rf "$target"
    fail "failed to build s3s-fs $S3S_VERSION with cargo install"
  }
  rm -rf "$target"
}
