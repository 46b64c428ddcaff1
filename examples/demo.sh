#!/usr/bin/env bash
# The demo: builds Tidemill, starts `tidemill dev` in a folder of its own, sends files, and shows what came out.
# Ends by itself with status 0 and leaves nothing running. Needs Rust, a C and C++ compiler, make; no server.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

say "building (the first time takes some minutes)"
cargo build --locked --bin tidemill
tidemill="${CARGO_TARGET_DIR:-target}/debug/tidemill"

data=$(mktemp -d)
server=
finish() {
  if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
  rm -rf "$data"
}
trap finish EXIT
trap 'exit 130' INT TERM

say "tidemill dev: gateway, processor and notifier in one process, all state in one folder"
TIDEMILL_PASSWORD=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
export TIDEMILL_PASSWORD
TIDEMILL_ADMIN_PASSWORD=$TIDEMILL_PASSWORD "$tidemill" dev --data "$data/state" --listen 127.0.0.1:0 \
  >"$data/dev.out" 2>"$data/dev.log" &
server=$!
TIDEMILL_URL=
for _ in $(seq 1 300); do
  TIDEMILL_URL=$(sed -n 's/.*\(http:\/\/127\.0\.0\.1:[0-9]*\).*/\1/p' "$data/dev.out" "$data/dev.log" | head -n 1)
  [ -n "$TIDEMILL_URL" ] && break
  kill -0 "$server" 2>/dev/null || { cat "$data/dev.out" "$data/dev.log"; exit 1; }
  sleep 0.1
done
[ -n "$TIDEMILL_URL" ] || { echo "tidemill dev did not come up"; cat "$data/dev.log"; exit 1; }
export TIDEMILL_URL
echo "it is up at $TIDEMILL_URL"

say "three files of an HR system: the third refers to the other two"
for name in departments jobs hired_employees; do
  "$tidemill" send "$name" "examples/data/employees/$name.csv" --rejects 8
done

say "flights: airlines, and January 2013 of all flights from New York, NA as null"
"$tidemill" send airlines examples/data/nycflights13/airlines.csv
"$tidemill" send flights examples/data/nycflights13/flights-2013-01.csv

say "what the database says: tidemill query"
for name in departments_above_mean_2021 hires_by_quarter_2021; do
  echo "-- examples/queries/$name.sql"
  "$tidemill" query --data "$data/state" "$(cat "examples/queries/$name.sql")" >"$data/answer"
  head -n 14 "$data/answer"
  lines=$(wc -l <"$data/answer")
  [ "$lines" -le 14 ] || echo "… $lines lines in all"
done
"$tidemill" query --data "$data/state" "
  SELECT a.name AS airline, count(*) AS flights, count(*) - count(dep_time) AS never_left,
         round(avg(dep_delay), 1) AS mean_delay_minutes
  FROM flights JOIN airlines a ON a.carrier = flights.carrier
  GROUP BY a.name ORDER BY flights DESC LIMIT 5"

say "every count added up again, from the object, the rejects and the ledger: tidemill jobs verify"
"$tidemill" jobs list --data "$data/state"
job=$("$tidemill" jobs list --data "$data/state" --pipeline hired_employees --json | sed -n 's/.*"job_id": *"\([^"]*\)".*/\1/p' | head -n 1)
"$tidemill" jobs verify "$job" --data "$data/state"

say "the e-mail that was written to the sender"
mail=
for _ in $(seq 1 100); do
  mail=$(find "$data/state/outbox" -name '*.eml' 2>/dev/null | head -n 1)
  [ -n "$mail" ] && break
  sleep 0.1
done
[ -n "$mail" ] || { echo "no mail was written"; tail "$data/dev.log"; exit 1; }
sed -n '1,45p' "$mail"

say "done"
echo "To keep one running: make dev   (then open another terminal; README.md shows what to type)"
