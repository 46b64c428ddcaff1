"""Where Tidemill runs under test: `dev` on a folder, or the roles as processes on the servers of tests/servers.

Starts, kills, stops and lets go on; says when nothing is under way any more. Used by walk.py and torture.py.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "checker"))

import stores

# Longest wait for a start, in seconds: a loaded machine is slow, a hang is longer.
START = 120
# The shortest lease that the settings take, in seconds.
LEASE = 3

# A column with the source's own bad lines makes rejects; everything else is as simple as can be.
COLUMNS = "columns: [{ name: id, type: int64 }, { name: text, type: text, max_length: 80 }]\n"
TOLERANT = "rejects: { tolerate: 100%, then: continue }\n"
MAIL = 'notify: [{ email: { to: "{{ sender }}", on: [success, failed] } }]\n'
UPLOADS = {
    # Nothing in this table would refuse a doubled row.
    "appends": COLUMNS + TOLERANT + "sinks: [{ table: { name: appends, mode: append } }]\n" + MAIL,
    "upserts": COLUMNS + TOLERANT + "sinks: [{ table: { name: upserts, mode: upsert, key: [id] } }]\n" + MAIL,
    "strict": COLUMNS
    + "rejects: { tolerate: 0, then: abort }\nsinks: [{ table: { name: strict, mode: append } }]\n"
    + MAIL,
    # In turn: the S3 server of the tests looks and then writes, so of two commits with one number it may take both.
    "drops": COLUMNS + TOLERANT + "order: arrival\nsinks: [{ lake: { name: drops } }]\n" + MAIL,
    "copies": COLUMNS + TOLERANT + "sinks: [{ file: { name: copy.csv } }]\n" + MAIL,
    "reported": COLUMNS
    + TOLERANT
    + 'sinks: [{ table: { name: reported, mode: append } }]\ncollect: { cron: "0 0 1 1 *" }\n'
    + MAIL,
}
# What the checker is told of a pipeline's files.
EXPECTED = {
    "appends": {"table": "appends", "key": "id"},
    "upserts": {"table": "upserts", "key": "id", "mode": "upsert"},
    "strict": {"table": "strict", "key": "id"},
    "drops": {"table": "drops", "key": "id", "lake": True},
    "copies": {"table": "copies", "key": "id", "lake": True},
    "reported": {"table": "reported", "key": "id"},
}


def write_pipelines(folder, api=None, schedule="0 0 1 1 *"):
    """Writes the pipelines above, and one that fetches from `api`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in UPLOADS.items():
        (folder / f"{name}.yaml").write_text(f"pipeline: {name}\n{text}")
    if api:
        sensor = (ROOT / "pipelines/sensor_readings.yaml").read_text()
        text = sensor.replace("http://127.0.0.1:8099/readings", api).replace('cron: "*/15 * * * *"', f'cron: "{schedule}"')
        (folder / "sensor_readings.yaml").write_text(text)


def environment(**more):
    """The environment without settings of others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
    return {**kept, **{name: str(value) for name, value in more.items()}}


class Process:
    """A process of Tidemill, with its log."""

    def __init__(self, command, log, piped=True, **more):
        self.log = pathlib.Path(log)
        with self.log.open("ab") as file:
            self.child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if piped else file, stderr=file, env=environment(**more),
            )

    @property
    def id(self):
        """Its process id."""
        return self.child.pid

    def has_ended(self):
        """Whether it has ended, and how."""
        return self.child.poll() is not None

    def send(self, which):
        """Sends a signal, if it still lives."""
        if not self.has_ended():
            os.kill(self.id, which)

    def kill(self):
        """SIGKILL, and waits."""
        self.send(signal.SIGKILL)
        self.child.wait()

    def is_stopped(self):
        """Whether it stands still by SIGSTOP."""
        try:
            return pathlib.Path(f"/proc/{self.id}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except FileNotFoundError:
            return False

    def says(self):
        """Its log."""
        return self.log.read_text(errors="replace")


class Dev:
    """`tidemill dev` on a folder."""

    def __init__(self, program, folder, pipelines, *settings):
        self.program, self.data, self.pipelines = program, pathlib.Path(folder) / "data", pipelines
        self.settings, self.process, self.url, self.starts = settings, None, None, 0
        self.place = {
            "jobs": f"sqlite:{self.data}/tidemill.db",
            "tables": f"sqlite:{self.data}/tables.db",
            "objects": f"{self.data}/objects",
            "events": f"{self.data}/events.db",
            "mails": f"{self.data}/outbox",
            "told": list(UPLOADS),
        }

    def command(self, *arguments):
        """A command line over the folder."""
        line = [self.program, "--data", self.data, "--pipelines", self.pipelines]
        for setting in (f"processor.lease={LEASE}s", f"fetcher.lease={LEASE}s", *self.settings):
            line += ["--set", setting]
        return [*line, *arguments]

    def start(self, **more):
        """Starts it and waits until it listens."""
        from client import PASSWORD

        self.starts += 1
        log = self.data.parent / f"dev-{self.starts}.log"
        command = self.command("--set", "query.warm=0", "dev", "--listen", "127.0.0.1:0")
        self.url = None
        self.process = Process(command, log, TIDEMILL_ADMIN_PASSWORD=PASSWORD, TIDEMILL_POSTGRES__LISTEN="127.0.0.1:0", **more)
        for line in self.process.child.stdout:
            if line.startswith(b"Tidemill is up: "):
                self.url = line.split()[-1].decode()
                return self
        raise RuntimeError(f"no start:\n{self.process.says()}")

    def is_up(self):
        """Whether it lives and listens."""
        return self.url is not None and not self.process.has_ended()

    def run(self, *arguments, log="command.log", **more):
        """Starts a command of the operator over the same folder."""
        return Process(self.command(*arguments), self.data.parent / log, piped=False, **more)

    def under_way(self):
        """What is not done yet, in words; empty when nothing is."""
        return under_way(self.place)


def under_way(place):
    """What is not done yet, by a look at the databases; empty when nothing is."""
    jobs = stores.Database(place["jobs"])
    tables, found = jobs.tables(), []
    looks = {
        "jobs": ("tidemill_jobs", "status IN ('queued', 'processing')"),
        "events in the outbox": ("tidemill_outbox", "1 = 1"),
        "runs": ("tidemill_slots", "status = 'running'"),
        "collections": ("tidemill_collections", "finished_at IS NULL"),
        "notices": ("tidemill_notices", "status = 'waiting'"),
    }
    for what, (table, where) in looks.items():
        count = jobs.rows(f"SELECT count(*) AS n FROM {table} WHERE {where}")[0]["n"] if table in tables else 0
        if count:
            found.append(f"{count} {what}")
    jobs.connection.close()
    lags = stores.embedded_lag(place["events"]) if place.get("events") else {}
    if place.get("kafka") and not found:
        lags = stores.kafka_lag(place["kafka"])
    found += [f"{lag} records of {topic} before {group}" for (topic, group), lag in lags.items() if lag]
    return ", ".join(found)


def settle(place, seconds):
    """Waits until nothing is under way; gives what still is once that has not changed for so many seconds."""
    began = changed = time.monotonic()
    last = None
    while time.monotonic() < min(changed + seconds, began + 10 * seconds):
        try:
            now = under_way(place)
        except Exception as error:  # a server that is just starting
            now = f"{type(error).__name__}: {error}"
        if not now:
            return ""
        if now != last:
            last, changed = now, time.monotonic()
        time.sleep(0.2)
    return last


def free_port():
    """A free port of this machine, below those that the kernel gives to others."""
    import random
    import socket

    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def save(path, value):
    """Writes JSON."""
    pathlib.Path(path).write_text(json.dumps(value, indent=1))
