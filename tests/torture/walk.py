#!/usr/bin/env python3
"""The walk: at every failpoint Tidemill is aborted, made to fail, stopped beyond its lease, and given an event twice; then
the checker looks at everything.

usage: walk.py PROGRAM POINT… [--lanes N] [--only TEXT] [--keep]

PROGRAM is a `tidemill` with failpoints (jobs/src/failpoints.rs). It runs as `dev`, on SQLite and a folder. A lane is a
folder on which cases follow one another; lanes run side by side. A point that is not reached is a violation too. Run by
tests/proof.rs with the list of all points; the exit status is 1 when there was a violation.
"""

import argparse
import collections
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "checker")]

import check
import doubles
import place as places
import stores
from client import Client, File, Record

ACTIONS = ("abort", "error", "stop", "double")
# How long a stopped process stands still, in seconds: beyond the leases of jobs, runs and the relay's events.
STANDS_STILL = 6
# How long a thread waits at a point for a doubled delivery, in milliseconds.
WAITS = 1500
# Longest wait for a point to be reached, and for the end of all work, in seconds.
REACHED, QUIET = 60, 120


def kind_of(point):
    """What has to be done for a point to be reached."""
    stage = point.split("::")[0]
    if stage in ("page", "run"):
        return "fetch"
    if stage in ("sweep", "settle"):
        return "orphan"
    if stage == "collect":
        return stage
    return {"lake": "drops"}.get(stage, "appends")


class Lane:
    """A folder with a `tidemill dev`, and what was sent to it."""

    def __init__(self, program, folder, pipelines):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        self.points, self.command_points = self.folder / "points", self.folder / "command-points"
        self.points.mkdir()
        self.command_points.mkdir()
        self.record = Record(self.folder / "sent.jsonl")
        self.dev = places.Dev(program, self.folder, pipelines, 'fetcher.allow=["127.0.0.0/8"]', "processor.retries_max=20")
        self.client = Client(lambda: [self.dev.url or "http://127.0.0.1:9"], self.record)
        self.nth = 0
        self.start()

    def start(self):
        """Starts `dev` and logs in."""
        self.dev.start(FAILPOINTS_FOLDER=self.points)
        self.client.login(user="admin")

    def file(self, pipeline, good=40, bad=3):
        """The next file."""
        self.nth += 1
        return File(pipeline, self.nth, good, bad, **places.EXPECTED[pipeline])

    def arm(self, folder, point, action):
        """Says what a point does, and waits until it is in force in the process that watches the folder."""
        for old in folder.iterdir():
            old.unlink()
        (folder / f"{point}.new").write_text(action)
        (folder / f"{point}.new").rename(folder / f"{point}.arm")

    def await_armed(self, folder, point):
        """Waits until the process has seen it."""
        wait_for(lambda: not (folder / f"{point}.arm").exists(), 10, f"{point} to be armed")


class NotReached(Exception):
    """A point that was armed and not hit, or something else that did not come in time."""


def wait_for(condition, seconds, what):
    """Waits until a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise NotReached(f"waited {seconds} s for {what}")
        time.sleep(0.02)


class Case:
    """One point with one action on a lane."""

    def __init__(self, lane, point, action):
        self.lane, self.point, self.action = lane, point, action
        self.is_command = kind_of(point) in ("fetch", "collect")
        self.folder = lane.command_points if self.is_command else lane.points
        self.command, self.starting, self.log_start = None, None, 0

    def run(self):
        """Gives the violations."""
        lane, action = self.lane, {"double": f"sleep {WAITS}"}.get(self.action, self.action)
        kind = kind_of(self.point)
        if kind == "collect":
            lane.client.send(lane.file("reported"))
            places.settle(lane.dev.place, QUIET)
        sending = self.make_orphan() if kind == "orphan" else None
        if kind not in ("orphan", "fetch", "collect"):
            self.log_start = self.log().stat().st_size
        lane.arm(self.folder, self.point, action)
        if self.is_command:
            self.command = self.start_command(kind)
        elif kind == "orphan":
            self.start_again()
        else:
            lane.await_armed(self.folder, self.point)
            sending = self.start_sending(kind)
        wait_for(self.is_hit, REACHED, f"the point to be reached\n{self.tail()}")
        getattr(self, f"after_{self.action}")(kind)
        if self.starting:
            self.starting.join(QUIET)
        if not self.lane.dev.is_up():
            self.lane.start()
        if sending:
            sending.join(QUIET)
        if self.command:
            self.end_command(kind)
        left = places.settle(lane.dev.place, QUIET)
        if left:
            return [f"not quiet: {left}\n{self.tail()}"]
        found, _ = check.check(lane.dev.place, lane.record.entries)
        return found

    def log(self):
        return self.command.log if self.command else self.lane.dev.process.log

    def process(self):
        return self.command or self.lane.dev.process

    def tail(self):
        return "\n".join(self.process().says().splitlines()[-15:])

    def is_hit(self):
        """An error leaves its name in the log, all else a file."""
        if self.action == "error":
            with self.log().open("rb") as log:
                log.seek(self.log_start)
                return self.point.encode() in log.read()
        return (self.folder / f"{self.point}.hit").exists()

    def start_sending(self, kind):
        file = self.lane.file(kind)
        thread = threading.Thread(target=self.lane.client.send, args=(file,))
        self.sent = file
        thread.start()
        return thread

    def make_orphan(self):
        """A job whose process died in the midst of it."""
        self.lane.arm(self.folder, "deliver::rows", "abort")
        self.lane.await_armed(self.folder, "deliver::rows")
        sending = self.start_sending("appends")
        self.lane.dev.process.child.wait(REACHED)
        return sending

    def start_again(self):
        """Starts `dev` on what it was killed in; it may be hit before it is up."""

        def start():
            try:
                self.lane.start()
            except RuntimeError:
                pass  # it was aborted on its way up

        before = self.lane.dev.process
        self.starting = threading.Thread(target=start)
        self.starting.start()
        wait_for(lambda: self.lane.dev.process is not before, 10, "the new process")

    def start_command(self, kind):
        arguments = ["fetch", "sensor_readings"] if kind == "fetch" else ["collect", "reported"]
        name = f"command-{self.point}-{self.action}.log"
        return self.lane.dev.run(*arguments, log=name, FAILPOINTS_FOLDER=self.folder)

    def end_command(self, kind):
        """A command ends; what it left is taken up by `dev`, and of a collection by the next command."""
        try:
            self.command.child.wait(QUIET)
        except subprocess.TimeoutExpired:
            self.command.kill()
            raise NotReached(f"the end of `{kind}`\n{self.tail()}")
        if kind == "collect":
            self.lane.dev.run("collect", "reported").child.wait(QUIET)

    def after_abort(self, _):
        self.process().child.wait(REACHED)

    def after_error(self, _):
        """An event that was not acked comes again after a restart only."""
        if self.point == "job::ack":
            self.process().kill()

    def after_stop(self, kind):
        wait_for(self.process().is_stopped, 10, "the process to stand still")
        if kind == "collect":
            self.lane.dev.run("collect", "reported").child.wait(QUIET)
        time.sleep(STANDS_STILL)
        self.process().send(signal.SIGCONT)

    def after_double(self, kind):
        """While the first stands at the point, the same comes again: the upload, the command, or the event."""
        lane = self.lane
        if kind == "collect":
            lane.dev.run("collect", "reported").child.wait(QUIET)
        elif self.point.startswith("landing"):
            lane.client.try_send(self.sent)
        elif kind != "fetch":
            topic = "finished" if self.point.startswith("notice") else "landed"
            doubles.newest(lane.dev.place, topic)


def walk_lane(program, folder, pipelines, cases, results):
    """Takes case after case."""
    lane = Lane(program, folder, pipelines)
    while True:
        try:
            point, action = cases.get_nowait()
        except queue.Empty:
            break
        began = time.monotonic()
        try:
            found = Case(lane, point, action).run()
        except NotReached as error:
            found = [str(error)]
        except Exception as error:
            found = [f"{type(error).__name__}: {error}"]
        results.append((point, action, found))
        for violation in found:
            print(f"violation: at {point}, {action}: {violation}", flush=True)
        print(f"{point} {action}: {len(found)} violations, {time.monotonic() - began:.1f} s", flush=True)
        if found:
            # What one case broke must not be told of the next: it goes on in a new folder.
            lane.dev.process.kill()
            lane = Lane(program, f"{folder}-after-{point}-{action}", pipelines)
    lane.dev.process.kill()


def start_api(program, folder):
    """The API to fetch from; gives process and URL."""
    api = places.Process([program, "mock-api", "--listen", "127.0.0.1:0", "--pages", "4", "--records", "20"], folder / "api.log")
    for line in api.child.stdout:
        if line.startswith(b"mock API: "):
            return api, line.split()[-1].decode()
    raise RuntimeError(f"no mock API: {api.says()}")


def main():
    """Walks; gives the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("points", nargs="+")
    parser.add_argument("--lanes", type=int, default=6)
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", action="store_true")
    asked = parser.parse_args()
    began = time.monotonic()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tidemill-walk-"))
    api, url = start_api(asked.program.resolve(), folder)
    places.write_pipelines(folder / "pipelines", url)
    cases, results = queue.Queue(), []
    for action in ACTIONS:
        for point in asked.points:
            if asked.only in f"{point} {action}":
                cases.put((point, action))
    lanes = [
        threading.Thread(target=walk_lane, args=(asked.program.resolve(), folder / f"lane-{nth}", folder / "pipelines", cases, results))
        for nth in range(min(asked.lanes, cases.qsize()))
    ]
    wanted = cases.qsize()
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    api.kill()
    bad = sum(bool(found) for _, _, found in results)
    by_action = collections.Counter(action for _, action, _ in results)
    print(
        f"walked {len(asked.points)} failpoints, {dict(by_action)}: {len(results)} of {wanted} cases, {bad} with violations, "
        f"{time.monotonic() - began:.0f} s"
    )
    failed = bad or len(results) < wanted
    if failed or asked.keep:
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
