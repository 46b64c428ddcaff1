#!/usr/bin/env python3
"""The checker is checked: it says nothing of a sound installation, and finds each kind of damage that is made by hand.

usage: test_check.py PROGRAM          Run by tests/proof.rs.
"""

import json
import pathlib
import shutil
import sqlite3
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "torture")]

import check
import place as places
from client import Client, File, Record


def sql(database, statement):
    """Damage by a statement."""

    def damage(data):
        with sqlite3.connect(data / database) as connection:
            assert connection.execute(statement).rowcount != 0, f"nothing was changed by {statement}"

    return damage


def remove(pattern):
    """Damage by deleting the first object of this form."""

    def damage(data):
        sorted((data / "objects").glob(pattern))[0].unlink()

    return damage


def edit(pattern, change):
    """Damage by another text in the first object of this form."""

    def damage(data):
        path = sorted((data / "objects").glob(pattern))[0]
        text = path.read_text()
        assert change(text) != text, f"nothing was changed in {path}"
        path.write_text(change(text))

    return damage


def drop_mails(data):
    """Damage by deleting all mails."""
    shutil.rmtree(data / "outbox")


def last_line_twice(text):
    """The last record once more."""
    return text + text.splitlines(keepends=True)[-1]


def without_last_line(text):
    """All but the last record."""
    return "".join(text.splitlines(keepends=True)[:-1])


APPENDED = "SELECT job_id FROM tidemill_jobs WHERE pipeline = 'appends' AND status = 'success' LIMIT 1"
FAILED = "SELECT job_id FROM tidemill_jobs WHERE status = 'failed' LIMIT 1"
ANY = "(SELECT min(job_id) FROM tidemill_ledger WHERE table_name = 'appends')"
OUTBOX = "INSERT INTO tidemill_outbox (event_id, topic, job_id, payload, created_at, due_at) VALUES ('e', 'landed', 'j', '{}', 0, 0)"
SLOT = (
    "INSERT INTO tidemill_slots (schedule, slot, run_id, status, attempt, worker, lease_until, started_at) "
    "VALUES ('fetch:x', 1, 'r', 'running', 1, 'w', 0, 0)"
)
COLLECTION = (
    "INSERT INTO tidemill_collections (collection_id, pipeline, slot, folder, lease_until) VALUES ('c', 'appends', 1, 'f', 0)"
)
# Each damage, and what the checker has to say of it.
DAMAGES = {
    "a row is lost": (sql("tables.db", "DELETE FROM appends WHERE id = (SELECT min(id) FROM appends)"), "0 times, not 1"),
    "a row is doubled": (sql("tables.db", "INSERT INTO appends SELECT * FROM appends LIMIT 1"), "2 times, not 1"),
    "a row of a failed job is in": (sql("tables.db", "INSERT INTO strict VALUES (7, 'strange')"), "`strict` has the row 7"),
    "a success is called failed": (
        sql("tidemill.db", f"UPDATE tidemill_jobs SET status = 'failed' WHERE job_id = ({APPENDED})"),
        "failed (None) but the ledger has 1 rows",
    ),
    "a failure is called a success": (
        sql("tidemill.db", f"UPDATE tidemill_jobs SET status = 'success' WHERE job_id = ({FAILED})"),
        "the ledger has no row of it",
    ),
    "a ledger row is lost": (
        sql("tables.db", "DELETE FROM tidemill_ledger WHERE table_name = 'appends'"),
        "the ledger has no row of it",
    ),
    "a ledger row counts wrong": (
        sql("tables.db", "UPDATE tidemill_ledger SET row_count = row_count + 1 WHERE table_name = 'appends'"),
        "the ledger has {'appends'",
    ),
    "a ledger row is of no job": (
        sql("tables.db", f"UPDATE tidemill_ledger SET job_id = 'nobody' WHERE job_id = {ANY}"),
        "which is no job",
    ),
    "a chunk is missing": (
        sql("tables.db", "UPDATE tidemill_ledger SET chunk = 1 WHERE table_name = 'appends'"),
        "has the chunks [1]",
    ),
    "a job is lost": (sql("tidemill.db", f"DELETE FROM tidemill_jobs WHERE job_id = ({APPENDED})"), "which is not there"),
    "a job hangs": (
        sql("tidemill.db", f"UPDATE tidemill_jobs SET status = 'processing' WHERE job_id = ({APPENDED})"),
        "is processing",
    ),
    "a job counts wrong": (
        sql("tidemill.db", f"UPDATE tidemill_jobs SET records_in = records_in + 1 WHERE job_id = ({APPENDED})"),
        "says records_in",
    ),
    "an event is stuck": (sql("tidemill.db", OUTBOX), "stands in the outbox"),
    "a record of the log was never taken": (
        sql("events.db", "UPDATE heads SET next = next + 1 WHERE topic = 'landed' AND part = 0"),
        "records before it",
    ),
    "a run hangs": (sql("tidemill.db", SLOT), "is running"),
    "a collection hangs": (sql("tidemill.db", COLLECTION), "has not ended"),
    "a reject is lost": (edit("jobs/*/*/rejects.csv", without_last_line), "rejects, its file has"),
    "a reject is doubled": (edit("jobs/*/*/rejects.csv", last_line_twice), "2 times"),
    "a reject names another line": (
        edit("jobs/*/*/rejects.csv", lambda text: text.replace("\n", "\n9", 1)),
        "rejects the lines",
    ),
    "the rejects are gone": (remove("jobs/*/*/rejects.csv"), "rejects, its file has 0"),
    "the report is gone": (remove("jobs/*/*/report.json"), "has no report"),
    "the report counts wrong": (
        edit("jobs/*/*/report.json", lambda text: text.replace('"records_in": ', '"records_in": 9')),
        "its report",
    ),
    "an object is gone": (remove("landing/*/*/*"), "lost its object"),
    "an object is another": (edit("landing/*/*/*", lambda text: text.replace("row", "wor")), "another content"),
    "an object is cut": (edit("landing/*/*/*", lambda text: text[:-1]), "has objects of"),
    "a commit of the lake is gone": (remove("lake/drops/_delta_log/*1.json"), "rows in the lake's `drops`"),
    "an artifact is gone": (remove("jobs/*/*/files/copy.csv"), "lost its file copy.csv"),
    "no mail was sent": (drop_mails, "no mail was sent"),
}


def build(program, folder):
    """A sound installation: files for each pipeline, good, with bad lines, and one that fails."""
    places.write_pipelines(folder / "pipelines")
    dev = places.Dev(program, folder, folder / "pipelines")
    record = Record(folder / "sent.jsonl")
    dev.start()
    client = Client(lambda: [dev.url], record).login(user="admin")
    for nth, (pipeline, bad) in enumerate([("appends", 3), ("appends", 0), ("upserts", 2), ("drops", 1), ("copies", 1), ("strict", 1), ("strict", 0)], 1):
        ends = "failed" if pipeline == "strict" and bad else "success"
        client.send(File(pipeline, nth, 30, bad, ends=ends, **places.EXPECTED[pipeline]))
    left = places.settle(dev.place, 120)
    assert not left, left
    deadline = time.monotonic() + 60
    while check.check(dev.place, record.entries)[0] and time.monotonic() < deadline:
        time.sleep(0.5)  # the last mail
    dev.process.kill()
    return dev.place, record.entries


def main():
    """Damages copies, one after the other; gives the exit status."""
    program = pathlib.Path(sys.argv[1]).resolve()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tidemill-checker-"))
    place, records = build(program, folder)
    found, figures = check.check(place, records)
    failures = [f"of a sound installation it says: {violation}" for violation in found]
    assert figures["rows compared"] and figures["rejects compared"], figures
    for name, (damage, wanted) in DAMAGES.items():
        copy = folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder / "data", copy)
        damage(copy)
        there = json.loads(json.dumps(place).replace(str(folder / "data"), str(copy)))
        found, _ = check.check(there, records)
        if not any(wanted in violation for violation in found):
            failures.append(f"{name}: not found; it says {found}")
    # The sender's side: an answer that names no job, and one key with two.
    lost = {"what": "upload", "pipeline": "appends", "sha256": "0", "key": "k", "status": 202, "job_id": "nobody"}
    other = {**lost, "job_id": records[1]["job_id"]}
    found, _ = check.check(place, [*records, lost, other])
    for wanted in ("which is not there", "which is another", "has several jobs"):
        if not any(wanted in violation for violation in found):
            failures.append(f"{wanted}: not found; it says {found}")
    for failure in failures:
        print(failure)
    print(f"{len(DAMAGES) + 3} kinds of damage, {len(failures)} not found")
    if not failures:
        shutil.rmtree(folder)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
