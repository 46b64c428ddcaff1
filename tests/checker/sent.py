"""What was sent against what stands: each accepted upload one job, each good row once, each bad record one reject.

Used by check.py, whose head says what the sender's record looks like.
"""

import collections

from rules import rejects_of
from state import ENDED, WELL


def of_sent(state, records):
    """All rules about what was sent."""
    files = {(record["pipeline"], record["sha256"]): record for record in records if record["what"] == "file"}
    uploads = [record for record in records if record["what"] == "upload"]
    yield from accepted(state, uploads)
    yield from ends(state, files)
    yield from tables(state, files)


def accepted(state, uploads):
    """Every 202 names one job of that content, however often it was sent."""
    by_key = collections.defaultdict(set)
    for upload in uploads:
        if upload.get("status") != 202:
            continue
        job_id = upload["job_id"]
        if upload.get("key"):
            by_key[upload["pipeline"], upload["key"]].add(job_id)
        job = state.jobs.get(job_id)
        if job is None:
            yield f"an upload to {upload['pipeline']} was accepted as job {job_id}, which is not there"
        elif job["pipeline"] != upload["pipeline"] or job["content_sha256"] != upload.get("sha256", job["content_sha256"]):
            yield f"an upload to {upload['pipeline']} was accepted as job {job_id}, which is another"
    for (pipeline, key), jobs in by_key.items():
        if len(jobs) > 1:
            yield f"the key {key} of {pipeline} has several jobs: {sorted(jobs)}"


def ends(state, files):
    """Each job of a known file has its end and its counts, and its rejects name its bad lines."""
    for job in state.jobs.values():
        file = files.get((job["pipeline"], job["content_sha256"]))
        if file is None or job["status"] not in ENDED:
            continue
        name = f"job {job['job_id']}"
        if file.get("ends") and (job["status"] in WELL) != (file["ends"] == "success"):
            yield f"{name} is {job['status']} ({(job['error'] or {}).get('code')}), its file should end as {file['ends']}"
        if job["status"] not in WELL:
            continue
        good, bad = len(list(keys(file))), sorted(file["bad"])
        wanted = {"records_in": good + len(bad), "records_written": good, "records_rejected": len(bad)}
        for count, number in wanted.items():
            if job[count] != number:
                yield f"{name} has {count} {job[count]}, its file {number}"
        lines = sorted(line for _, line in rejects_of(state, job))
        if lines != bad:
            yield f"{name} rejects the lines {lines[:10]}, bad are {bad[:10]}"


def tables(state, files):
    """Each table holds each good row as often as jobs brought it, and no other row."""
    expected, modes = collections.defaultdict(collections.Counter), {}
    by_content = collections.defaultdict(list)
    for job in state.well():
        by_content[job["pipeline"], job["content_sha256"]].append(job["job_id"])
    for content, file in files.items():
        if file.get("lake"):
            continue
        modes[file["table"]] = (file["key"], file.get("mode", "append"))
        jobs = by_content[content]
        if len(jobs) > 1 and not file.get("repeats"):
            yield f"one file of {file['pipeline']} has succeeded as {len(jobs)} jobs: {jobs}"
        expected[file["table"]].update({key: len(jobs) for key in keys(file)})
    for table, (key, mode) in modes.items():
        wanted = {k: n if mode == "append" else 1 for k, n in expected[table].items() if n}
        found = state.counts(table, key) if table in state.tables else {}
        wrong = [k for k in wanted.keys() | found.keys() if wanted.get(k, 0) != found.get(k, 0)]
        for k in sorted(wrong, key=str)[:10]:
            yield f"`{table}` has the row {k} {found.get(k, 0)} times, not {wanted.get(k, 0)}"
        if len(wrong) > 10:
            yield f"`{table}` has {len(wrong) - 10} more rows that are not there as often as they should"


def keys(file):
    """The keys of a file's good rows: numbers, and ranges as [first, last]."""
    for entry in file["good"]:
        yield from range(entry[0], entry[1] + 1) if isinstance(entry, list) else [entry]
