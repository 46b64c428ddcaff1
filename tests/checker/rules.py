"""What must agree whatever was sent: each rule gives its violations as texts. Used by check.py."""

import collections
import csv
import hashlib
import io
import json

from state import ENDED, WELL

COUNTS = ("records_in", "records_written", "records_rejected", "records_filtered")
# The ledger row of a job that writes no table.
FILES = "files"
# Begins the sink of a ledger row that names files of the lake.
LAKE = "lake:"


def of_state(state):
    """All rules, one after the other."""
    rules = (nothing_is_under_way, ledger_and_jobs, reports, rejects, objects, lake, runs, collected, told)
    for rule in rules:
        yield from rule(state)


def nothing_is_under_way(state):
    """Every job has ended, nothing waits to be published, no record waits to be taken."""
    for job in state.jobs.values():
        if job["status"] not in ENDED:
            yield f"job {job['job_id']} is {job['status']} (attempt {job['attempt']}), not ended"
    for row in state.outbox:
        yield f"event {row['event_id']} of job {row['job_id']} stands in the outbox"
    for (topic, group), lag in state.lag().items():
        if lag:
            yield f"group {group} of topic {topic} has {lag} records before it"


def ledger_and_jobs(state):
    """A job has succeeded if and only if the ledger has rows of it; one for each table and chunk, and they agree."""
    for job in state.jobs.values():
        rows = state.ledger.get(job["job_id"], [])
        name = f"job {job['job_id']}"
        if job["status"] == "failed" and rows:
            yield f"{name} failed ({(job['error'] or {}).get('code')}) but the ledger has {len(rows)} rows of it"
        if job["status"] in WELL and not rows:
            yield f"{name} is {job['status']} but the ledger has no row of it"
        if job["status"] not in WELL:
            continue
        for sink in {row["sink"] for row in rows}:
            chunks = sorted(row["chunk"] for row in rows if row["sink"] == sink)
            if chunks != list(range(len(chunks))):
                yield f"{name} has the chunks {chunks} of `{sink}` in the ledger"
        for row in rows:
            if row["attempt"] > job["attempt"]:
                yield f"{name} was committed by attempt {row['attempt']} of {job['attempt']}"
        if state.has_summaries():
            yield from _summaries(job, rows)
    for job_id in state.ledger.keys() - state.jobs.keys():
        yield f"the ledger has rows of {job_id}, which is no job"


def _summaries(job, rows):
    name = f"job {job['job_id']}"
    last = {}
    for row in rows:
        if row["chunk"] >= last.get(row["sink"], row)["chunk"]:
            last[row["sink"]] = row
    for row in last.values():
        summary = row["summary"]
        if not summary:
            yield f"{name} has a last ledger row of `{row['sink']}` without a summary"
            continue
        for count in COUNTS:
            if summary.get(count) != job[count]:
                yield f"{name} says {count} {job[count]}, its ledger row {summary.get(count)}"
        if summary.get("report") != job["report"]:
            yield f"{name} names the report {job['report']}, its ledger row {summary.get('report')}"


def reports(state):
    """A job that succeeded has a report that says what the job says and what the ledger says."""
    for job in state.well():
        name = f"job {job['job_id']}"
        body = state.objects.get(job["report"]) if job["report"] else None
        if body is None:
            yield f"{name} has no report ({job['report']})"
            continue
        report = json.loads(body)
        if report["job_id"] != job["job_id"]:
            yield f"{name} has the report of {report['job_id']}"
        for count in COUNTS:
            if report[count] != job[count]:
                yield f"{name} says {count} {job[count]}, its report {report[count]}"
        if report.get("error"):
            yield f"{name} succeeded, but its report has an error"
        tables = {entry["table"]: entry["rows"] for entry in report["tables"]}
        found = collections.Counter()
        for row in state.ledger.get(job["job_id"], []):
            if row["sink"] != FILES:
                found[row["table_name"]] += row["row_count"]
        if dict(found) != tables:
            yield f"{name} reports {tables}, the ledger has {dict(found)}"


def rejects(state):
    """The file of rejects holds as many records as the job counts, and no line of a file twice."""
    for job in state.well():
        name, lines = f"job {job['job_id']}", rejects_of(state, job)
        if len(lines) != job["records_rejected"]:
            yield f"{name} counts {job['records_rejected']} rejects, its file has {len(lines)}"
        for line, times in collections.Counter(lines).items():
            if times > 1:
                yield f"{name} rejects {line} {times} times"
        state.rejects_seen += len(lines)


def rejects_of(state, job):
    """File and line of each reject of a job."""
    folder = (job["report"] or "/").rpartition("/")[0]
    body = state.objects.get(f"{folder}/rejects.csv") if f"{folder}/rejects.csv" in state.keys else None
    if body is None:
        return []
    records = csv.DictReader(io.StringIO(body.decode("utf-8", "replace"), newline=""))
    return [(record.get("file") or "", int(record["line"] or 0)) for record in records]


def objects(state):
    """The objects of a job are there, with its size and content; what was made belongs to a job."""
    for job in state.jobs.values():
        files = job["files"] or []
        sizes = [state.keys.get(key) for key in files]
        if None in sizes:
            yield f"job {job['job_id']} lost its object {files[sizes.index(None)]}"
        elif files and sum(sizes) != job["size_bytes"]:
            yield f"job {job['job_id']} has objects of {sum(sizes)} bytes, not {job['size_bytes']}"
        elif len(files) == 1 and files[0].startswith("landing/") and "/page-" not in files[0]:
            if hashlib.sha256(state.objects.get(files[0])).hexdigest() != job["content_sha256"]:
                yield f"job {job['job_id']} has an object of another content"
        if job["status"] in WELL:
            folder = (job["report"] or "/").rpartition("/")[0]
            for name in job["artifacts"] or []:
                if f"{folder}/files/{name}" not in state.keys:
                    yield f"job {job['job_id']} lost its file {name}"
    for owner in {key.split("/")[1] for key in state.keys if key.startswith("jobs/")} - state.jobs.keys():
        yield f"there are objects of {owner}, which is no job"


def lake(state):
    """Each commit of the lake belongs to a job that succeeded, once, with the rows of its ledger row."""
    tables = {key.split("/")[1] for key in state.keys if key.startswith("lake/") and "/_delta_log/" in key}
    named = {row["sink"].removeprefix(LAKE) for rows in state.ledger.values() for row in rows if row["sink"].startswith(LAKE)}
    for table in named - tables:
        yield f"the ledger names files of `{table}`, which is no table of the lake"
    for table in tables:
        commits = collections.defaultdict(list)
        for key in sorted(state.keys):
            if key.startswith(f"lake/{table}/_delta_log/") and key.endswith(".json"):
                owner, rows = _commit(state, table, key)
                if owner:
                    commits[owner].append(rows)
        expected = {
            job_id: sum(row["row_count"] for row in rows if row["sink"] == f"{LAKE}{table}")
            for job_id, rows in state.ledger.items()
        }
        for owner in expected.keys() | commits.keys():
            have = commits.get(owner, [])
            if sum(have) != expected.get(owner, 0):
                yield f"job {owner} has {have} rows in the lake's `{table}`, the ledger {expected.get(owner, 0)}"
        state.rows_seen += sum(map(sum, commits.values()))


def _commit(state, table, key):
    """The job of a commit of Delta and the rows that it adds; a commit that only raises a fence adds none."""
    owner, rows, adds = None, 0, False
    for line in state.objects.get(key).decode().splitlines():
        action = json.loads(line)
        if "txn" in action:
            owner = action["txn"]["appId"].split(":")[2]
        if "add" in action:
            adds = True
            rows += json.loads(action["add"]["stats"])["numRecords"]
            if f"lake/{table}/{action['add']['path']}" not in state.keys:
                raise RuntimeError(f"the lake's `{table}` lost {action['add']['path']}")
    return (owner if adds else None), rows


def runs(state):
    """No run of a schedule is under way; a page that landed is there, and the run's job has it."""
    for slot in state.slots:
        if slot["status"] == "running":
            yield f"run {slot['run_id']} of {slot['schedule']} is running"
    running = {slot["run_id"]: slot for slot in state.slots}
    for page in state.pages:
        slot, job = running.get(page["run_id"]), state.jobs.get(page["run_id"])
        if page["status"] != "landed" or not page["object"] or not slot or slot["status"] != "done":
            continue
        if page["object"] not in state.keys:
            yield f"page {page['number']} of run {page['run_id']} lost its object"
        elif hashlib.sha256(state.objects.get(page["object"])).hexdigest() != page["content_sha256"]:
            yield f"page {page['number']} of run {page['run_id']} has an object of another content"
        if not job or (job["files"] or []).count(page["object"]) != 1:
            yield f"page {page['number']} of run {page['run_id']} is not once in its job"


def collected(state):
    """Each collection has ended; its manifest and its folder have each of its jobs once."""
    for entry in state.collections:
        name = f"collection {entry['collection_id']}"
        if entry["finished_at"] is None:
            yield f"{name} of {entry['pipeline']} has not ended"
            continue
        owned = sorted(job["job_id"] for job in state.jobs.values() if job["collection_id"] == entry["collection_id"])
        manifest = json.loads(state.objects.get(f"{entry['folder']}/manifest.json") or '{"jobs": []}')
        if sorted(job["job_id"] for job in manifest["jobs"]) != owned:
            yield f"{name} has {len(owned)} jobs, its manifest another list"
        for job in manifest["jobs"]:
            for file in job["files"]:
                if f"{entry['folder']}/{file}" not in state.keys:
                    yield f"{name} lost {file}"
        for job_id in owned:
            if state.jobs[job_id]["status"] != "downloaded":
                yield f"job {job_id} was collected and is {state.jobs[job_id]['status']}"


def told(state):
    """No notice waits; the last end of each job of the pipelines named was told, by one row and at least one mail."""
    rows = collections.Counter()
    for notice in state.notices:
        name = f"notice {notice['number']} of job {notice['job_id']}"
        if notice["status"] == "waiting" or (notice["pipeline"] in state.place.get("told", []) and notice["status"] != "sent"):
            yield f"{name} is {notice['status']} after {notice['tries']} tries"
        rows[notice["job_id"], notice["ended_at"]] += 1
    for job in state.jobs.values() if "tidemill_notices" in state.job_tables else ():
        if job["pipeline"] in state.place.get("told", []) and job["status"] in ENDED:
            times = rows[job["job_id"], job["finished_at"]]
            if times != 1:
                yield f"the end of job {job['job_id']} has {times} notices, not 1"
    if state.place.get("mails") is None:
        return
    mails = _mails(state.place["mails"])
    for job in state.jobs.values():
        if job["pipeline"] in state.place.get("told", []) and job["status"] in ENDED:
            if job["job_id"] not in mails:
                yield f"no mail was sent about job {job['job_id']}, which is {job['status']}"


def _mails(folder):
    """The ids of jobs that mails name."""
    import email
    import pathlib
    import re

    form, found = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"), set()
    for path in pathlib.Path(folder).glob("**/*.eml"):
        message = email.message_from_bytes(path.read_bytes())
        parts = [part.get_payload(decode=True) or b"" for part in message.walk() if not part.is_multipart()]
        found.update(match.decode() for part in [str(message.get("subject", "")).encode(), *parts] for match in form.findall(part))
    return found
