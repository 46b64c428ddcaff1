#!/usr/bin/env bash
# The demo: builds Tidemill, starts `tidemill dev` in a folder of its own, sends files, and shows what came out.
# Ends by itself with status 0 and leaves nothing running. Needs Rust, a C and C++ compiler, make; no server.
# DEMO_BINARY names a binary that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

tidemill=${DEMO_BINARY:-}
if [ -z "$tidemill" ]; then
  say "building (the first time takes some minutes)"
  cargo build --locked --bin tidemill
  tidemill="${CARGO_TARGET_DIR:-target}/debug/tidemill"
fi

data=$(mktemp -d)
running=()
finish() {
  if ((${#running[@]})); then
    kill "${running[@]}" 2>/dev/null || true
    wait "${running[@]}" 2>/dev/null || true
  fi
  rm -rf "$data"
}
trap finish EXIT
trap 'exit 130' INT TERM

# Prints the URL that a program prints when it is up: url_of NAME PID.
url_of() {
  local url
  for _ in $(seq 1 1200); do
    url=$(sed -n '/http:/{s|.*\(http://127\.0\.0\.1:[0-9]*\).*|\1|p;q;}' "$data/$1.out" 2>/dev/null)
    [ -n "$url" ] && { echo "$url"; return; }
    kill -0 "$2" 2>/dev/null || break
    sleep 0.1
  done
  echo "$1 did not come up:" >&2
  cat "$data/$1.out" "$data/$1.log" >&2
  return 1
}

# Prints the id of the last job of a pipeline.
job_of() {
  "$tidemill" jobs list --data "$data/state" --pipeline "$1" --json | sed -n '/"job_id"/{s/.*"job_id": *"\([^"]*\)".*/\1/p;q;}'
}

say "tidemill mock-api: 200 pages of made-up readings of sensors, to fetch from"
"$tidemill" mock-api --listen 127.0.0.1:0 --pages 200 --records 20 --latency 20ms >"$data/api.out" 2>"$data/api.log" &
running+=($!)
api=$(url_of api $!)
echo "it is up at $api"
cp -r pipelines "$data/pipelines"
# Without its schedule: nothing is to happen because the clock strikes a quarter of an hour just now.
sed "s|http://127.0.0.1:8099|$api|; /^    schedule:/d" pipelines/sensor_readings.yaml >"$data/pipelines/sensor_readings.yaml"

say "tidemill dev: gateway, processor, fetcher and notifier in one process, all state in one folder"
TIDEMILL_PASSWORD=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
export TIDEMILL_PASSWORD
TIDEMILL_ADMIN_PASSWORD=$TIDEMILL_PASSWORD "$tidemill" dev --data "$data/state" --listen 127.0.0.1:0 \
  --pipelines "$data/pipelines" --set 'fetcher.allow=["127.0.0.0/8"]' >"$data/dev.out" 2>"$data/dev.log" &
running+=($!)
TIDEMILL_URL=$(url_of dev $!)
export TIDEMILL_URL
echo "it is up at $TIDEMILL_URL"

say "three files of an HR system: the third refers to the other two"
for name in departments jobs hired_employees; do
  "$tidemill" send "$name" "examples/data/employees/$name.csv" --rejects 8
done

say "flights: airlines, and January 2013 of all flights from New York, NA as null"
"$tidemill" send airlines examples/data/nycflights13/airlines.csv
"$tidemill" send flights examples/data/nycflights13/flights-2013-01.csv

say "an API: 200 pages are fetched, each lands once, and one job takes them all: tidemill fetch --wait"
"$tidemill" fetch sensor_readings --wait=10m --data "$data/state" --pipelines "$data/pipelines" \
  --set 'fetcher.allow=["127.0.0.0/8"]'

say "a delayed job: the files are pushed to the object store first, then one job runs over both: tidemill jobs submit"
head -n 6 examples/data/employees/departments.csv >"$data/first.csv"
tail -n +7 examples/data/employees/departments.csv >"$data/second.csv"
"$tidemill" jobs submit departments "$data/first.csv" "$data/second.csv" --wait

say "files to files: a video goes up, its sound comes back as an MP3"
if command -v ffmpeg >/dev/null && command -v ffprobe >/dev/null && command -v curl >/dev/null; then
  ffmpeg -loglevel error -f lavfi -i testsrc=duration=2:size=160x120 -f lavfi -i sine=duration=2 -shortest "$data/talk.mp4"
  "$tidemill" send video_to_mp3 "$data/talk.mp4"
  token=$(curl -sf -u "admin:$TIDEMILL_PASSWORD" -X POST "$TIDEMILL_URL/v1/login" | sed 's/.*"token":"\([^"]*\)".*/\1/')
  job=$(job_of video_to_mp3)
  curl -sf -H "Authorization: Bearer $token" "$TIDEMILL_URL/v1/jobs/$job/files/talk.mp3" -o "$data/talk.mp3"
  ffprobe -v error -show_entries stream=codec_name,duration -of default=noprint_wrappers=1 "$data/talk.mp3"
else
  echo "ffmpeg or ffprobe is not installed, or curl: left out (Debian's packages are named ffmpeg and curl)"
fi

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
echo "-- what was fetched"
"$tidemill" query --data "$data/state" "
  SELECT status, count(*) AS readings, round(avg(temperature_c), 1) AS mean_temperature_c
  FROM sensor_readings GROUP BY status ORDER BY status"

say "every count added up again, from the object, the rejects and the ledger: tidemill jobs verify"
"$tidemill" jobs list --data "$data/state"
job=$(job_of hired_employees)
"$tidemill" jobs verify "$job" --data "$data/state"

say "the e-mail that was written to the sender"
# A notice is sent after the job has ended, so it may come a moment later.
mail=
for _ in $(seq 1 1200); do
  mail=$(grep -ls 'Subject: hired_employees' "$data"/state/outbox/*.eml | sed 1q) || true
  [ -n "$mail" ] && break
  sleep 0.1
done
[ -n "$mail" ] || { echo "no mail was written" >&2; tail "$data/dev.log" >&2; exit 1; }
sed '/^Content-Type: text\/html/,$d' "$mail"

say "done"
echo "To keep one running: make dev   (then open another terminal; README.md shows what to type)"
