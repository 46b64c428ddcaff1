# Sourced by `servers`: how each server is prepared, started, and known to be ready.
# Every server has $DIR in its arguments: that is how a process id kept in a file is known to be still ours.

USER_NAME=tidemill
PASSWORD=tidemill-test
BUCKET=tidemill-test
READY_SECONDS=90 # a cold JVM on a busy two-core machine takes about 15
STOP_SECONDS=30  # then the process is killed

# Starts a command as a process of its own session, so that Ctrl-C in the caller's terminal does not reach it.
launch() {
  local name=$1
  shift
  if [[ -f $DIR/$name.log ]]; then mv "$DIR/$name.log" "$DIR/$name.log.before"; fi
  setsid "$@" >"$DIR/$name.log" 2>&1 </dev/null 9>&- &
  echo $! >"$DIR/$name.pid"
}

# Waits until `ready_NAME` holds; a server that ends or is late is an error with the end of its log.
await_ready() {
  local name=$1 deadline=$((SECONDS + READY_SECONDS))
  until "ready_$name"; do
    # Just forked, it does not have the server's arguments yet: a second look after a moment counts.
    if ! running "$name" && sleep 1 && ! running "$name"; then
      log_tail "$name"
      fail "$name ended instead of becoming ready"
    fi
    if ((SECONDS > deadline)); then
      log_tail "$name"
      fail "$name was not ready after $READY_SECONDS seconds"
    fi
    sleep 0.1
  done
}

log_tail() {
  say "the end of $DIR/$1.log:"
  tail -n 30 "$DIR/$1.log" >&2
}

port_answers() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# A free port below the range from which the kernel takes ports of outgoing connections, so that nobody gets it while
# the server is stopped.
free_port() {
  local port try
  for try in {1..200}; do
    port=$((20000 + (RANDOM * 32768 + RANDOM + try) % 12000))
    if ! port_answers "$port" && ! grep -qs "=$port\$" "$DIR/ports"; then
      echo "$port"
      return
    fi
  done
  fail "found no free port between 20000 and 32000"
}

# What a new MariaDB or MySQL runs at its start.
users() {
  cat <<SQL
CREATE USER IF NOT EXISTS '$USER_NAME'@'%' IDENTIFIED BY '$PASSWORD';
GRANT ALL PRIVILEGES ON *.* TO '$USER_NAME'@'%' WITH GRANT OPTION;
SQL
}

start_mariadb() {
  local data="$DIR/mariadb" user
  user=$(id -un) # as root too: another user could not reach into a home folder
  if [[ ! -d $data ]]; then
    rm -rf "$data.new"
    mariadb-install-db --no-defaults --user="$user" --datadir="$data.new" --skip-test-db \
      --auth-root-authentication-method=normal >"$DIR/mariadb-install.log" 2>&1 || {
      tail -n 30 "$DIR/mariadb-install.log" >&2
      fail "failed to make the data folder of mariadb"
    }
    users >"$data.new/users.sql"
    mv "$data.new" "$data"
  fi
  # The socket's path is relative to the data folder: an absolute one may be longer than a socket's name can be.
  # The defaults for durability are kept: a commit is on disk when it is answered. Numbers for new rows are given out
  # as in a Galera cluster, where tables need a key.
  launch mariadb mariadbd --no-defaults --user="$user" --datadir="$data" --init-file="$data/users.sql" \
    --socket=mariadb.sock --pid-file="$data/mariadb.pid" --bind-address=127.0.0.1 --port="$MARIADB_PORT" \
    --skip-name-resolve --local-infile=1 --max-connections=500 --innodb-flush-log-at-trx-commit=1 \
    --innodb-autoinc-lock-mode=2
}

ready_mariadb() {
  mariadb --no-defaults --protocol=tcp --host=127.0.0.1 --port="$MARIADB_PORT" --user="$USER_NAME" \
    --password="$PASSWORD" --connect-timeout=5 --execute='SELECT 1' >/dev/null 2>&1
}

# mysqld and its arguments in MYSQLD, with the loader and the libraries that were unpacked beside it.
find_mysqld() {
  local loader=("$MYSQL_ROOT"/usr/lib*/ld-linux-*.so.*) libraries=("$MYSQL_ROOT"/usr/lib/*-linux-gnu)
  MYSQLD=("${loader[0]}" --library-path "${libraries[0]}" "$MYSQL_ROOT/usr/sbin/mysqld" --no-defaults
    --user="$(id -un)" --basedir="$MYSQL_ROOT/usr" --lc-messages-dir="$MYSQL_ROOT/usr/share/mysql"
    --plugin-dir="$MYSQL_ROOT/usr/lib/mysql/plugin")
}

start_mysql() {
  local data="$DIR/mysql" MYSQLD
  find_mysqld
  # sid moves: which version it is belongs into the log of a test run.
  say "mysql: $("${MYSQLD[@]}" --version | sed 's/.* Ver /version /')"
  if [[ ! -d $data ]]; then
    rm -rf "$data.new"
    "${MYSQLD[@]}" --initialize-insecure --datadir="$data.new" >"$DIR/mysql-install.log" 2>&1 || {
      tail -n 30 "$DIR/mysql-install.log" >&2
      fail "failed to make the data folder of mysql"
    }
    users >"$data.new/users.sql"
    mv "$data.new" "$data"
  fi
  # Tables need a key, as in a group of servers.
  launch mysql "${MYSQLD[@]}" --datadir="$data" --init-file="$data/users.sql" --socket=mysql.sock \
    --pid-file="$data/mysql.pid" --bind-address=127.0.0.1 --port="$MYSQL_PORT" --mysqlx=OFF --skip-name-resolve \
    --secure-file-priv=NULL --local-infile=ON --max-connections=500 --sql-require-primary-key=ON
}

# The line comes once the port is open and the file with the users is done.
ready_mysql() {
  grep -qs 'ready for connections' "$DIR/mysql.log" && port_answers "$MYSQL_PORT"
}

# Quick to start rather than quick in the long run; the heap is all that a test's load needs.
KAFKA_JAVA=(java -Xms128m -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$KAFKA_LIBS/*")

start_kafka() {
  local data="$DIR/kafka"
  mkdir -p "$data"
  cat >"$data/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$KAFKA_PORT,CONTROLLER://127.0.0.1:$KAFKA_CONTROLLER_PORT
advertised.listeners=PLAINTEXT://127.0.0.1:$KAFKA_PORT,CONTROLLER://127.0.0.1:$KAFKA_CONTROLLER_PORT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.quorum.bootstrap.servers=127.0.0.1:$KAFKA_CONTROLLER_PORT
log.dirs=$data/log
# Topics are made by the program under test, never by a misspelt name.
auto.create.topics.enable=false
# One node: nothing can be replicated, and no other consumer is worth waiting for.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
PROPERTIES
  if [[ ! -f $data/log/meta.properties ]]; then
    local cluster
    cluster=$(head -c 16 /dev/urandom | base64 | tr '+/' 'ab' | tr -d '=')
    "${KAFKA_JAVA[@]}" kafka.tools.StorageTool format --standalone -t "$cluster" -c "$data/server.properties" \
      >"$DIR/kafka-format.log" 2>&1 || {
      tail -n 30 "$DIR/kafka-format.log" >&2
      fail "failed to format the log folder of kafka"
    }
  fi
  launch kafka "${KAFKA_JAVA[@]}" kafka.Kafka "$data/server.properties"
}

# The port opens a moment before requests are answered; the log's line comes after both.
ready_kafka() {
  grep -qs 'Kafka Server started' "$DIR/kafka.log" && port_answers "$KAFKA_PORT"
}

start_smtp() {
  local data="$DIR/smtp"
  mkdir -p "$data"
  if [[ ! -f $data/cert.pem ]]; then
    openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=localhost \
      -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE \
      -keyout "$data/key.pem" -out "$data/cert.pem" >"$DIR/smtp-cert.log" 2>&1 ||
      fail "failed to make the certificate of smtp: see $DIR/smtp-cert.log"
  fi
  launch smtp "$(smtp_python)" "$HERE/smtp.py" "$SMTP_PORT" "$data/mails" "$data/cert.pem" "$data/key.pem"
}

ready_smtp() {
  local line
  (
    exec 3<>"/dev/tcp/127.0.0.1/$SMTP_PORT" || exit 1
    IFS= read -r -t 5 line <&3
    printf 'QUIT\r\n' >&3
    [[ $line == 220* ]]
  ) 2>/dev/null
}

start_s3() {
  mkdir -p "$DIR/s3/$BUCKET" # a bucket is a folder
  launch s3 env RUST_LOG=warn "$S3S_BIN" --host 127.0.0.1 --port "$S3_PORT" --access-key "$USER_NAME" \
    --secret-key "$PASSWORD" "$DIR/s3"
}

ready_s3() {
  port_answers "$S3_PORT"
}
