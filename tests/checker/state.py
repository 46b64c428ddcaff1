"""Everything that stands after a run, read once: jobs, ledger, objects, what is queued anywhere. Used by check.py."""

import collections

import stores

ENDED = ("success", "failed", "downloaded")
WELL = ("success", "downloaded")


class State:
    """What databases, objects and logs hold."""

    def __init__(self, place):
        self.place = place
        self.jobs_database = stores.Database(place["jobs"])
        self.tables_database = stores.Database(place.get("tables") or place["jobs"])
        self.objects = stores.objects(place["objects"])
        self.job_tables = self.jobs_database.tables()
        self.tables = self.tables_database.tables()
        self.jobs = {row["job_id"]: self._job(row) for row in self._of_jobs("tidemill_jobs")}
        self.ledger = collections.defaultdict(list)
        for row in self._of_tables("tidemill_ledger"):
            row["summary"] = stores.json_of(row.get("summary"))
            self.ledger[row["job_id"]].append(row)
        self.outbox = self._of_jobs("tidemill_outbox")
        self.notices = self._of_jobs("tidemill_notices")
        self.slots = self._of_jobs("tidemill_slots")
        self.pages = self._of_jobs("tidemill_pages")
        self.collections = self._of_jobs("tidemill_collections")
        self.keys = self.objects.list()
        self.rows_seen = self.rejects_seen = 0

    def _of_jobs(self, table):
        return self.jobs_database.rows(f"SELECT * FROM {table}") if table in self.job_tables else []

    def _of_tables(self, table):
        return self.tables_database.rows(f"SELECT * FROM {table}") if table in self.tables else []

    @staticmethod
    def _job(row):
        for name in ("files", "artifacts", "error"):
            row[name] = stores.json_of(row.get(name))
        return row

    def well(self):
        """The jobs that succeeded."""
        return [job for job in self.jobs.values() if job["status"] in WELL]

    def has_summaries(self):
        """Whether the ledger of this version says what a job came to."""
        return any(row["summary"] for rows in self.ledger.values() for row in rows)

    def lag(self):
        """Records that groups have not committed, by (topic, group)."""
        lag = {}
        if self.place.get("events"):
            lag.update(stores.embedded_lag(self.place["events"]))
        if self.place.get("kafka"):
            lag.update(stores.kafka_lag(self.place["kafka"]))
        return lag

    def counts(self, table, key):
        """How often each key stands in a table."""
        rows = self.tables_database.rows(f"SELECT {key} AS k, count(*) AS n FROM {table} GROUP BY {key}")
        self.rows_seen += sum(row["n"] for row in rows)
        return {row["k"]: row["n"] for row in rows}

    def figures(self):
        """What was looked at, in numbers."""
        statuses = collections.Counter(job["status"] for job in self.jobs.values())
        return {
            "jobs": len(self.jobs),
            **statuses,
            "ledger rows": sum(map(len, self.ledger.values())),
            "rows compared": self.rows_seen,
            "rejects compared": self.rejects_seen,
            "objects": len(self.keys),
        }
