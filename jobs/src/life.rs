//! The life of a job: pure rules, tested as tables of cases.
