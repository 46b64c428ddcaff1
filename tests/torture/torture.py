#!/usr/bin/env python3
"""The torture: a cluster on real servers that is killed, stopped, cut off and given events twice while files keep coming; then
everything is healed, and the checker looks at all of it.

usage: torture.py PROGRAM POINTS --seconds N --seed N [--keep]

PROGRAM is a `tidemill` with failpoints, POINTS the file with their list (jobs/src/failpoints.rs). The plan comes from the seed
alone, so the same seed repeats it; what the machine makes of it differs. Started by `make torture`.
"""

import argparse
import collections
import pathlib
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "checker")]

import check
import disk
import doubles
import place as places
import stores
from client import Client, File, Record
from cluster import PROXIED, ROLES, STANDS_STILL, Cluster
from walk import kind_of, start_api

SENDERS = 3
# Pause between two strokes of the plan, in seconds: least and most.
GAP = (0.4, 2.5)
# Longest wait for a failpoint to be hit, and for any change of what is under way after the healing, in seconds.
ARMED, QUIET = 6, 180
# Jobs that have not ended, beyond which senders wait: a busy machine must not end with a queue of an hour.
BACKLOG = 60
# Longest time of a command of the operator, in seconds.
COMMAND = 40
STROKES = {"kill": 6, "stop": 3, "cut": 3, "hang": 2, "slow": 2, "server": 2, "lock": 2, "double": 3}


def plan(seed, seconds, points):
    """What is done when: strokes, and failpoints in an order of their own. From the seed alone."""
    chance, at, strokes = random.Random(seed), 0.0, []
    while (at := at + chance.uniform(*GAP)) < seconds:
        stroke = chance.choices(list(STROKES), list(STROKES.values()))[0]
        target = {
            "kill": chance.randrange(len(ROLES)), "stop": chance.randrange(len(ROLES)),
            "server": chance.choice(["mariadb", "kafka", "s3", "smtp"]),
        }.get(stroke, chance.choice(PROXIED))
        strokes.append((at, stroke, target, chance.uniform(0.5, 4), chance.random()))
    arms = [(point, action) for point in points for action in ("abort", "error", "stop", "sleep 1500")]
    chance.shuffle(arms)
    return strokes, arms


class Torture:
    """One run."""

    def __init__(self, cluster, record, seed, seconds):
        self.cluster, self.record, self.seed, self.seconds = cluster, record, seed, seconds
        self.over = threading.Event()
        self.jobs, self.errors, self.hits = [], [], []
        self.servers, self.backlog = threading.Lock(), 0

    def guarded(self, work, *arguments):
        """A thread whose error is told at the end."""

        def run():
            try:
                work(*arguments)
            except Exception as error:
                self.errors.append(f"{work.__name__}: {type(error).__name__}: {error}")

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def send(self, nth):
        """A sender: files of all kinds; some sent twice, some cancelled, some tried again."""
        chance = random.Random(f"{self.seed}-{nth}")
        client = Client(self.cluster.urls, self.record).login()
        count = 0
        while not self.over.is_set():
            count += 1
            pipeline = chance.choices(list(places.UPLOADS), [5, 3, 2, 2, 1, 1])[0]
            good, bad = int(10 ** chance.uniform(1, 3.6)), chance.choice([0, 0, 1, 5])
            ends = {"ends": "failed"} if pipeline == "strict" and bad else {}
            file = File(pipeline, nth * 100_000 + count, good, bad, **ends, **places.EXPECTED[pipeline])
            what = chance.random()
            if len(file.body) and what < 0.1:
                # The sender does not wait for the answer, and comes again.
                file.note(self.record)
                client.try_send(file)
            job_id = client.send(file, stop=self.over.is_set)
            if job_id is None:
                return
            self.jobs.append(job_id)
            if what > 0.9:
                client.ask("POST", f"/v1/jobs/{job_id}/cancel")
            elif what > 0.8 and len(self.jobs) > 20:
                client.ask("POST", f"/v1/jobs/{chance.choice(self.jobs)}/retry")
            self.over.wait(chance.uniform(0, 0.3))
            while self.backlog > BACKLOG and not self.over.wait(0.5):
                pass

    def watch(self):
        """Counts the jobs that have not ended."""
        while not self.over.wait(1):
            try:
                jobs = stores.Database(self.cluster.place["jobs"])
                sql = "SELECT count(*) AS n FROM tidemill_jobs WHERE status IN ('queued', 'processing')"
                self.backlog = jobs.rows(sql)[0]["n"]
                jobs.connection.close()
            except Exception:  # the server is away
                self.cluster.counts["looks at a server that is away"] += 1

    def strike(self, strokes):
        """Carries out the plan."""
        began, threads = time.monotonic(), []
        for at, stroke, target, seconds, luck in strokes:
            if self.over.wait(max(0, at - (time.monotonic() - began))):
                break
            threads.append(self.guarded(getattr(self, stroke), target, seconds, luck))
        for thread in threads:
            thread.join()

    def kill(self, nth, _seconds, _luck):
        self.cluster.kill(nth)

    def stop(self, nth, _seconds, _luck):
        self.cluster.stop(nth)

    def network(self, name, mode, seconds):
        self.cluster.network(name, mode)
        time.sleep(seconds)
        self.cluster.network(name, "open")

    def cut(self, name, seconds, _luck):
        self.network(name, "cut", seconds / 2)

    def hang(self, name, seconds, _luck):
        self.network(name, "hang", seconds)

    def slow(self, name, seconds, _luck):
        self.network(name, "slow", seconds)

    def server(self, name, seconds, luck):
        with self.servers:
            self.cluster.server(name, "kill" if luck < 0.5 else "stop", seconds)

    def lock(self, _target, seconds, luck):
        """Holds rows of the tables, and takes them in an order that ends in deadlocks."""
        self.cluster.counts["locks"] += 1
        try:
            database = stores.Database(self.cluster.place["tables"])
            database.connection.begin()
            for table in ("upserts", "appends") if luck < 0.5 else ("appends", "upserts"):
                database.rows(f"SELECT * FROM {table} ORDER BY id DESC LIMIT 500 FOR UPDATE")
                time.sleep(seconds / 2)
            database.connection.rollback()
            database.connection.close()
        except Exception as error:  # the table is not there yet, the server is away, or the deadlock was ours
            self.cluster.counts[f"locks ended by {type(error).__name__}"] += 1

    def double(self, _target, _seconds, luck):
        """An event of an old job once more."""
        if not self.jobs:
            return
        job_id = self.jobs[int(luck * len(self.jobs))]
        try:
            jobs = stores.Database(self.cluster.place["jobs"])
            rows = jobs.rows(f"SELECT pipeline FROM tidemill_jobs WHERE job_id = '{job_id}'")
            jobs.connection.close()
            doubles.put(self.cluster.place, "landed", job_id, doubles.landed(job_id, rows[0]["pipeline"]))
            self.cluster.counts["doubled events"] += 1
        except Exception:  # the server is away
            self.cluster.counts["events not doubled"] += 1

    def arm(self, arms):
        """Arms one failpoint after the other in all processes, until one of them is hit."""
        while not self.over.is_set():
            for point, action in arms:
                if self.over.is_set():
                    return
                if self.armed_and_hit(point, action):
                    self.hits.append((point, action))
                    self.cluster.counts[f"failpoints {action.split()[0]}"] += 1

    def armed_and_hit(self, point, action):
        command = {"fetch": ["fetch", "sensor_readings"], "collect": ["collect", "reported"]}.get(kind_of(point))
        folders = [self.cluster.points(nth) for nth in (["command"] if command else range(len(ROLES)))]
        for folder in folders:
            for old in folder.iterdir():
                old.unlink(missing_ok=True)
            (folder / f"{point}.new").write_text(action)
            (folder / f"{point}.new").rename(folder / f"{point}.arm")
        if command:
            return self.command(command, folders[0] / f"{point}.hit", action)
        until = time.monotonic() + ARMED
        while time.monotonic() < until and not self.over.wait(0.05):
            # One is enough: the others are disarmed, so that a death does not follow the job.
            if any((folder / f"{point}.hit").exists() for folder in folders) or self.cluster.says(point, action):
                for folder in folders:
                    (folder / f"{point}.armed").unlink(missing_ok=True)
                return True
        return False

    def command(self, arguments, hit, action):
        """Runs a command of the operator with the failpoint; what it leaves is for the fetcher to take up."""
        process = self.cluster.command(*arguments, FAILPOINTS_FOLDER=hit.parent)
        until = time.monotonic() + COMMAND
        while not process.has_ended() and time.monotonic() < until:
            if process.is_stopped():
                time.sleep(STANDS_STILL)
                process.send(signal.SIGCONT)
            time.sleep(0.05)
        process.kill()
        return hit.exists() or (action == "error" and hit.stem in process.says())

    def run(self, strokes, arms):
        """Everything at once, then the healing; gives what is still under way."""
        threads = [self.guarded(self.send, nth) for nth in range(1, SENDERS + 1)]
        threads += [self.guarded(self.strike, strokes), self.guarded(self.arm, arms), self.guarded(self.watch)]
        time.sleep(self.seconds)
        self.over.set()
        for thread in threads:
            thread.join()
        self.cluster.heal()
        return places.settle(self.cluster.place, QUIET)


def main():
    """Runs; gives the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("points", type=pathlib.Path)
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--keep", action="store_true")
    asked = parser.parse_args()
    points = re.findall(r'^    "(\w+::\w+)",$', asked.points.read_text(), re.M)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tidemill-torture-"))
    program = asked.program.resolve()
    print(f"torture: seed {asked.seed}, {asked.seconds} s, {len(points)} failpoints, in {folder}", flush=True)
    found = disk.fill(program, folder / "disk", asked.seed)
    api, url = start_api(program, folder)
    cluster, record = Cluster(program, folder, url), Record(folder / "sent.jsonl")
    cluster.start()
    torture = Torture(cluster, record, asked.seed, asked.seconds)
    strokes, arms = plan(asked.seed, asked.seconds, points)
    left = torture.run(strokes, arms)
    found += [f"nothing changed for {QUIET} s, and there still are: {left}"] if left else []
    found += [f"the torture itself: {error}" for error in torture.errors]
    violations, figures = check.check(cluster.place, record.entries)
    found += violations
    for violation in found:
        print(f"violation: {violation}")
    if found:
        print(cluster.tails())
    cluster.close()
    api.kill()
    reached = collections.Counter(point for point, _ in torture.hits)
    print(f"failpoints hit {len(torture.hits)} times, {len(reached)} of {len(points)}; never: {sorted(set(points) - set(reached))}")
    print("faults:", ", ".join(f"{count} {what}" for what, count in sorted(cluster.counts.items())))
    print("state:", ", ".join(f"{count} {what}" for what, count in figures.items()))
    print(f"torture: seed {asked.seed}, {asked.seconds} s, {len(record.entries)} lines sent, {len(found)} violations")
    if found or asked.keep:
        print(f"kept: {folder} and the databases {cluster.name}_*")
    else:
        cluster.databases("DROP DATABASE")
        shutil.rmtree(folder)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
