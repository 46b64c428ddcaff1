#!/usr/bin/env python3
"""The checker: reads databases and objects after a run, and says where they disagree with each other and with what was sent.

usage: check.py PLACE.json [SENT.jsonl]

It knows nothing of Tidemill's code. PLACE says where things are:

    {"jobs": "mysql://… or sqlite:/…", "tables": "…", "objects": "/folder" or {"url": "s3://bucket/prefix", "endpoint": "…",
     "access_key": "…", "secret_key": "…"}, "events": "/…/events.db", "kafka": {"servers": "…", "prefix": "…"}, "mails": "/folder of .eml files", "told": ["pipelines that mail about every end"]}

SENT is the sender's own record, a line for each thing, in any order:

    {"what": "file", "pipeline": "…", "sha256": "…", "table": "…", "key": "id", "mode": "append", "good": [[first, last], 7],
     "bad": [lines], "ends": "success, failed, or missing for either", "lake": true for a table of the lake}
    {"what": "upload", "pipeline": "…", "sha256": "… or missing", "key": "idempotency key", "status": 202 or null, "job_id": "…" or null}

Without SENT it checks what must agree whatever was sent. Each violation is a line; the exit status is 1 when there is one.
Run by the tests of tests/cluster, tests/walk, and by tests/torture.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import rules
import sent as senders
from state import State


def check(place, records):
    """All violations, and figures about what was looked at."""
    state = State(place)
    found = [*rules.of_state(state), *senders.of_sent(state, records)]
    return found, state.figures()


def main():
    """Prints violations and figures; gives the exit status."""
    if len(sys.argv) not in (2, 3):
        print(__doc__.split("\n\n")[1], file=sys.stderr)
        return 2
    place = json.loads(pathlib.Path(sys.argv[1]).read_text())
    lines = pathlib.Path(sys.argv[2]).read_text().splitlines() if len(sys.argv) == 3 else []
    found, figures = check(place, [json.loads(line) for line in lines if line.strip()])
    for violation in found:
        print(f"violation: {violation}")
    print("checked:", ", ".join(f"{count} {what}" for what, count in figures.items()) + f"; {len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
