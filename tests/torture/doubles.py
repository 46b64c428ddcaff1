"""Doubled deliveries: puts an event of a job into the outbox once more, for the relay to publish. Used by walk.py and torture.py."""

import datetime
import json
import uuid

import stores


def newest(place, topic):
    """Doubles the event of the newest job, or the last finished event that the embedded log has; gives the job."""
    jobs = stores.Database(place["jobs"])
    rows = jobs.rows("SELECT job_id, pipeline FROM tidemill_jobs ORDER BY arrival DESC LIMIT 1")
    jobs.connection.close()
    if rows and topic == "landed":
        return put(place, topic, rows[0]["job_id"], landed(rows[0]["job_id"], rows[0]["pipeline"]))
    log = stores.Database(f"sqlite:{place['events']}")
    last = f"SELECT key, payload FROM records WHERE topic = '{topic}' ORDER BY appended_at DESC, pos DESC LIMIT 1"
    rows = log.rows(last)
    log.connection.close()
    return put(place, topic, rows[0]["key"], rows[0]["payload"].decode()) if rows else None


def landed(job_id, pipeline):
    """The event that a job waits, as CloudEvents have it."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat()
    event = {"specversion": "1.0", "id": str(uuid.uuid4()), "source": f"/tidemill/pipelines/{pipeline}", "subject": job_id}
    data = {"job_id": job_id, "pipeline": pipeline}
    return json.dumps({**event, "time": now, "datacontenttype": "application/json", "type": "tidemill.landed", "data": data})


def put(place, topic, job_id, payload):
    """Writes the row of the outbox."""
    database = stores.Database(place["jobs"])
    now = int(datetime.datetime.now().timestamp() * 1_000_000)
    mark = "%s" if database.is_mysql else "?"
    if not database.is_mysql:
        database.connection.execute("PRAGMA query_only = 0")
    sql = "INSERT INTO tidemill_outbox (event_id, topic, job_id, payload, created_at, due_at) VALUES "
    cursor = database.connection.cursor()
    cursor.execute(sql + f"({', '.join([mark] * 6)})", (str(uuid.uuid4()), topic, job_id, payload, now, now))
    database.connection.commit()
    database.connection.close()
    return job_id
