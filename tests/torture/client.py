"""A sender as a program should be one, and its record of what it sent: what the checker compares with.

A file without a clear answer is sent again with the same Idempotency-Key. Used by walk.py and torture.py.
"""

import base64
import hashlib
import http.client
import json
import pathlib
import threading
import time
import urllib.parse

# Longest wait for an answer, in seconds, and the pause before a file is sent again.
WAIT = 30
PAUSE = 0.2
USER, PASSWORD = "ana", "correct horse battery"
# Answers that mean "later"; all other refusals are definite.
LATER = (408, 425, 429, 500, 502, 503, 504)


class Record:
    """The sender's own record: JSON lines, as check.py reads them."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.lock = threading.Lock()
        self.entries = []

    def note(self, **entry):
        """Adds a line."""
        with self.lock:
            self.entries.append(entry)
            with self.path.open("a") as file:
                file.write(json.dumps(entry) + "\n")


class File:
    """A file of rows `id,text` with ids of its own: `good` of them, and bad lines behind them here and there."""

    def __init__(self, pipeline, nth, good, bad, **more):
        first = 1 + nth * 1_000_000
        lines, bad_lines, spread = ["id,text"], [], max(1, good // (bad + 1))
        for at in range(good):
            lines.append(f"{first + at},row {first + at} of file {nth}")
            if len(bad_lines) < bad and at % spread == spread - 1:
                lines.append(f"none-{nth}-{len(bad_lines)},is no number")
                bad_lines.append(len(lines))
        self.pipeline, self.key = pipeline, f"{pipeline}-{nth}"
        self.body = ("\n".join(lines) + "\n").encode()
        self.sha256 = hashlib.sha256(self.body).hexdigest()
        self.expected = {"good": [[first, first + good - 1]], "bad": bad_lines, **more}

    def note(self, record):
        """Tells the record what the file holds."""
        record.note(what="file", pipeline=self.pipeline, sha256=self.sha256, **self.expected)


class Client:
    """Speaks to gateways, each request to the next of them."""

    def __init__(self, urls, record):
        # A function, because a gateway may listen elsewhere after a restart.
        self.urls, self.record = urls, record
        self.turn, self.token = 0, None

    def request(self, method, path, body=None, headers=(), wait=WAIT):
        """Status and body; OSError or HTTPException when the answer is lost."""
        urls = self.urls()
        self.turn += 1
        at = urllib.parse.urlsplit(urls[self.turn % len(urls)])
        connection = http.client.HTTPConnection(at.hostname, at.port, timeout=wait)
        try:
            connection.request(method, path, body=body, headers=dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def login(self, user=USER, password=PASSWORD):
        """Gets a token; tried until a gateway answers."""
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        until = time.monotonic() + 120
        while True:
            try:
                status, body = self.request("POST", "/v1/login", headers={"authorization": f"Basic {basic}"})
                if status == 200:
                    self.token = json.loads(body)["token"]
                    return self
            except (OSError, http.client.HTTPException) as error:
                status, body = 0, str(error)
            if time.monotonic() > until:
                raise RuntimeError(f"no login: {status} {body}")
            time.sleep(PAUSE)

    def ask(self, method, path, body=None, **headers):
        """Status and JSON of a request with the token; (None, None) when the answer is lost."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            status, text = self.request(method, path, body, {"authorization": f"Bearer {self.token}", **names})
            return status, json.loads(text or b"null")
        except (OSError, http.client.HTTPException, ValueError):
            return None, None

    def try_send(self, file):
        """Sends a file once; gives the status, None when the answer is lost, and the job."""
        path = f"/v1/pipelines/{file.pipeline}/uploads?name={file.key}.csv"
        status, job = self.ask("POST", path, file.body, idempotency_key=file.key)
        job_id = job.get("job_id") if status == 202 else None
        self.record.note(
            what="upload", pipeline=file.pipeline, sha256=file.sha256, key=file.key, status=status, job_id=job_id
        )
        return status, job_id

    def send(self, file, stop=lambda: False, patience=600):
        """Sends until the answer is clear; gives the job, None when it was told to stop before."""
        file.note(self.record)
        until = time.monotonic() + patience
        while not stop():
            status, job_id = self.try_send(file)
            if job_id:
                return job_id
            if status is not None and status not in LATER:
                raise RuntimeError(f"the upload {file.key} was refused: {status}")
            if time.monotonic() > until:
                raise RuntimeError(f"the upload {file.key} got no answer: {status}")
            time.sleep(PAUSE)
        return None

    def job(self, job_id):
        """A job as the API shows it, or None."""
        status, job = self.ask("GET", f"/v1/jobs/{job_id}")
        return job if status == 200 else None
