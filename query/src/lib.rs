//! SQL over the results: catalog, worker processes with their limits, the Postgres wire. Knows nothing of uploads.
