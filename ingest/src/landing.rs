//! Landing: bytes stream to the object store, then one transaction writes the job and its outbox row.
