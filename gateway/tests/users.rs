//! Users and grants, by the same statements on SQLite, MariaDB and MySQL.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../tests/servers/databases.rs"]
mod databases;

use databases::databases;
use sqlx::{Connection, MySqlConnection};
use tidemill_gateway::{Grant, Permission, Scope, Users, UsersError};
use tidemill_jobs::{JobId, JobStore, StoreLimits};

async fn store(url: &str) -> JobStore {
    let jobs = JobStore::connect(url, StoreLimits::default()).await.unwrap();
    jobs.migrate().await.unwrap();
    jobs
}

#[tokio::test]
async fn users_and_grants_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = store(&format!("sqlite://{}", folder.path().join("jobs.db").display())).await;
    users_are_added_changed_and_listed(&Users::new(&jobs)).await;
    names_are_compared_exactly(&Users::new(&jobs)).await;
    a_verifier_for_scram_stands_beside_the_hash(&jobs).await;
}

#[tokio::test]
async fn users_and_grants_on_each_server() {
    for (server, url) in databases() {
        eprintln!("on {server}");
        let database = format!("users_{}", JobId::new()).replace('-', "_");
        let mut admin = MySqlConnection::connect(&url).await.unwrap();
        execute(&mut admin, format!("CREATE DATABASE {database}")).await;
        let jobs = store(&format!("{url}/{database}")).await;
        users_are_added_changed_and_listed(&Users::new(&jobs)).await;
        names_are_compared_exactly(&Users::new(&jobs)).await;
        a_verifier_for_scram_stands_beside_the_hash(&jobs).await;
        jobs.close().await;
        execute(&mut admin, format!("DROP DATABASE {database}")).await;
    }
}

async fn execute(connection: &mut MySqlConnection, statement: String) {
    sqlx::query(sqlx::AssertSqlSafe(statement)).execute(connection).await.unwrap();
}

fn password(text: &str) -> secrecy::SecretString {
    text.to_owned().into()
}

async fn users_are_added_changed_and_listed(users: &Users) {
    users.add("ann@example.org", password("first password"), false).await.unwrap();
    let again = users.add("ann@example.org", password("first password"), false).await;
    assert!(matches!(again, Err(UsersError::Exists(_))), "{again:?}");
    let refused = users.add("a:b", password("first password"), false).await;
    assert!(matches!(refused, Err(UsersError::BadName)), "{refused:?}");
    let refused = users.add("ben", password("short"), false).await;
    assert!(matches!(refused, Err(UsersError::BadPassword)), "{refused:?}");
    users.add("zoe", password("first password"), true).await.unwrap();

    users.set_password("ann@example.org", password("second password")).await.unwrap();
    assert!(users.verify("ann@example.org", password("first password")).await.unwrap().is_none());
    let ann = users.verify("ann@example.org", password("second password")).await.unwrap().unwrap();
    assert_eq!((ann.name.as_str(), ann.is_admin), ("ann@example.org", false));
    let unknown = users.set_password("nobody", password("second password")).await;
    assert!(matches!(unknown, Err(UsersError::Unknown(_))), "{unknown:?}");

    let all = Grant { scope: Scope::All, permission: Permission::Send };
    for _ in 0..2 {
        users.grant("ann@example.org", &all).await.unwrap();
    }
    let unknown = users.grant("nobody", &all).await;
    assert!(matches!(unknown, Err(UsersError::Unknown(_))), "{unknown:?}");
    let listed = users.list().await.unwrap();
    let listed: Vec<_> =
        listed.iter().map(|user| (user.name.as_str(), user.is_admin, user.grants.len())).collect();
    assert_eq!(listed, [("ann@example.org", false, 1), ("zoe", true, 0)]);
    assert_eq!(users.get("ann@example.org").await.unwrap().unwrap().grants, std::slice::from_ref(&all));

    assert!(users.revoke("ann@example.org", &all).await.unwrap());
    assert!(!users.revoke("ann@example.org", &all).await.unwrap());
    users.grant("ann@example.org", &all).await.unwrap();
    users.remove("ann@example.org").await.unwrap();
    assert!(users.get("ann@example.org").await.unwrap().is_none());
    users.add("ann@example.org", password("third password"), false).await.unwrap();
    assert!(users.get("ann@example.org").await.unwrap().unwrap().grants.is_empty());
}

async fn a_verifier_for_scram_stands_beside_the_hash(jobs: &JobStore) {
    let users = Users::new(jobs);
    users.add("eve", password("first password"), false).await.unwrap();
    let first = users.verifier("eve").await.unwrap().unwrap();
    users.set_password("eve", password("second password")).await.unwrap();
    let second = users.verifier("eve").await.unwrap().unwrap();
    assert_ne!(first, second);
    assert!(users.verifier("nobody").await.unwrap().is_none());
    // As an older version left it.
    sqlx::query("UPDATE tidemill_users SET scram = NULL WHERE name = 'eve'")
        .execute(jobs.pool())
        .await
        .unwrap();
    assert!(users.verifier("eve").await.unwrap().is_none());
    assert!(users.verify("eve", password("first password")).await.unwrap().is_none());
    assert!(users.verifier("eve").await.unwrap().is_none());
    assert!(users.verify("eve", password("second password")).await.unwrap().is_some());
    assert!(users.verifier("eve").await.unwrap().is_some());
    users.remove("eve").await.unwrap();
}

async fn names_are_compared_exactly(users: &Users) {
    users.add("Örs", password("first password"), false).await.unwrap();
    users.add("örs", password("other password"), false).await.unwrap();
    assert!(users.verify("ors", password("first password")).await.unwrap().is_none());
    assert!(users.verify("örs", password("first password")).await.unwrap().is_none());
    assert!(users.verify("Örs", password("first password")).await.unwrap().is_some());
}
