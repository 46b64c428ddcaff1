-- What SCRAM-SHA-256 checks a password by on the Postgres wire, as PostgreSQL writes it:
-- SCRAM-SHA-256$iterations:salt$stored key:server key. Null until the password is set or used the next time.
ALTER TABLE tidemill_users ADD COLUMN scram TEXT;
