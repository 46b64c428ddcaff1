-- The last jobs of a pipeline that ended tell how fast it works.
CREATE INDEX tidemill_jobs_by_end ON tidemill_jobs (pipeline, finished_at);
