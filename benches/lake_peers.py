#!/usr/bin/env python3
"""Asks DuckDB what src/bin/lake.rs asks the lake, on the same Parquet files. Called by it; makes a virtual environment
in a temporary folder.

    python3 benches/lake_peers.py FOLDER ROUNDS QUERY…

prints, as JSON, for each query the answer as texts and the median of the times in milliseconds.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import venv


def ask(folder, rounds, queries):
    import duckdb

    files = os.path.join(folder, "*", "*.parquet")
    told = []
    for query in queries:
        def answer():
            # A new connection keeps nothing of the files, as a query worker keeps nothing of the table.
            with duckdb.connect() as connection:
                connection.execute("SET TimeZone = 'UTC'")
                source = f"read_parquet('{files}', hive_partitioning = true)"
                return connection.execute(query.replace("FROM flights", f"FROM {source}")).fetchall()

        rows, times = answer(), []
        for _ in range(rounds):
            begun = time.perf_counter()
            answer()
            times.append((time.perf_counter() - begun) * 1e3)
        texts = [["" if value is None else str(value) for value in row] for row in rows]
        told.append({"answer": texts, "median_ms": sorted(times)[len(times) // 2]})
    json.dump(told, sys.stdout)


def main():
    folder, rounds, queries = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    if os.environ.get("LAKE_PEERS_READY") == "1":
        ask(folder, rounds, queries)
        return
    with tempfile.TemporaryDirectory() as place:
        venv.create(place, with_pip=True)
        python = os.path.join(place, "bin", "python")
        subprocess.run([python, "-m", "pip", "install", "-q", "duckdb"], check=True, stdout=sys.stderr)
        subprocess.run([python, __file__, *sys.argv[1:]], check=True, env=os.environ | {"LAKE_PEERS_READY": "1"})


if __name__ == "__main__":
    main()
