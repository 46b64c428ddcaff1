//! The statements of [`Users`], the same on MySQL and SQLite. Names are compared exactly, whatever the collation.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Row};

use super::password::{Kept, mark};
use super::{Grant, Permission, Scope, User, Users, UsersError, check_name};

/// What [`read_user`] reads.
const COLUMNS: &str = "name, password_hash, is_admin, created_at";

impl Users {
    /// The user with all grants, from the database.
    pub async fn get(&self, name: &str) -> Result<Option<User>, UsersError> {
        let row = sqlx::query(AssertSqlSafe(format!("SELECT {COLUMNS} FROM tidemill_users WHERE name = ?")))
            .bind(name.to_owned())
            .fetch_optional(self.jobs.pool())
            .await
            .map_err(failed("read a user"))?;
        let Some(row) = row else { return Ok(None) };
        let mut user = read_user(&row)?;
        if user.name != name {
            return Ok(None);
        }
        user.grants = self.grants_of(name).await?;
        Ok(Some(user))
    }

    /// All users by name, with their grants.
    pub async fn list(&self) -> Result<Vec<User>, UsersError> {
        let rows = sqlx::query(AssertSqlSafe(format!("SELECT {COLUMNS} FROM tidemill_users ORDER BY name")))
            .fetch_all(self.jobs.pool())
            .await
            .map_err(failed("list users"))?;
        let mut users = Vec::with_capacity(rows.len());
        for row in rows {
            let mut user = read_user(&row)?;
            user.grants = self.grants_of(&user.name).await?;
            users.push(user);
        }
        Ok(users)
    }

    /// Removes a user, and with the row, by its foreign key, all grants. Jobs keep the name of their sender.
    pub async fn remove(&self, name: &str) -> Result<(), UsersError> {
        let done = sqlx::query("DELETE FROM tidemill_users WHERE name = ?")
            .bind(name.to_owned())
            .execute(self.jobs.pool())
            .await
            .map_err(failed("remove a user"))?;
        self.forget(name);
        if done.rows_affected() == 0 { Err(UsersError::Unknown(name.to_owned())) } else { Ok(()) }
    }

    /// Gives a right. Safe to repeat.
    pub async fn grant(&self, name: &str, grant: &Grant) -> Result<(), UsersError> {
        if self.get(name).await?.is_none() {
            return Err(UsersError::Unknown(name.to_owned()));
        }
        let done =
            sqlx::query("INSERT INTO tidemill_grants (user_name, pipeline, permission) VALUES (?, ?, ?)")
                .bind(name.to_owned())
                .bind(grant.scope.as_str().to_owned())
                .bind(grant.permission.as_str())
                .execute(self.jobs.pool())
                .await;
        self.forget(name);
        match done {
            Err(error) if is_taken(&error) => Ok(()),
            done => done.map(drop).map_err(failed("grant")),
        }
    }

    /// Takes a right away. Answers whether the user had it.
    pub async fn revoke(&self, name: &str, grant: &Grant) -> Result<bool, UsersError> {
        let done = sqlx::query(
            "DELETE FROM tidemill_grants WHERE user_name = ? AND pipeline = ? AND permission = ?",
        )
        .bind(name.to_owned())
        .bind(grant.scope.as_str().to_owned())
        .bind(grant.permission.as_str())
        .execute(self.jobs.pool())
        .await
        .map_err(failed("revoke a grant"))?;
        self.forget(name);
        Ok(done.rows_affected() > 0)
    }

    pub(super) async fn insert(&self, name: &str, kept: &Kept, is_admin: bool) -> Result<(), UsersError> {
        let done = sqlx::query(
            "INSERT INTO tidemill_users (name, password_hash, scram, is_admin, created_at) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(name.to_owned())
        .bind(kept.hash.clone())
        .bind(kept.scram.clone())
        .bind(i64::from(is_admin))
        .bind(Utc::now().timestamp_micros())
        .execute(self.jobs.pool())
        .await;
        self.forget(name);
        match done {
            Err(error) if is_taken(&error) => Err(UsersError::Exists(name.to_owned())),
            done => done.map(drop).map_err(failed("add a user")),
        }
    }

    pub(super) async fn update_password(&self, name: &str, kept: &Kept) -> Result<(), UsersError> {
        let done = sqlx::query("UPDATE tidemill_users SET password_hash = ?, scram = ? WHERE name = ?")
            .bind(kept.hash.clone())
            .bind(kept.scram.clone())
            .bind(name.to_owned())
            .execute(self.jobs.pool())
            .await
            .map_err(failed("change a password"))?;
        self.forget(name);
        if done.rows_affected() == 0 { Err(UsersError::Unknown(name.to_owned())) } else { Ok(()) }
    }

    /// Adds what SCRAM needs to a user of an older version, unless someone set a password in between.
    pub(super) async fn add_scram(&self, name: &str, scram: &str) -> Result<(), UsersError> {
        sqlx::query("UPDATE tidemill_users SET scram = ? WHERE name = ? AND scram IS NULL")
            .bind(scram.to_owned())
            .bind(name.to_owned())
            .execute(self.jobs.pool())
            .await
            .map(drop)
            .map_err(failed("complete a user"))
    }

    /// What is kept of this user's password, `None` when there is no such user. Without SCRAM its text is empty.
    pub(super) async fn kept_password(&self, name: &str) -> Result<Option<Kept>, UsersError> {
        if check_name(name).is_err() {
            return Ok(None);
        }
        let row = sqlx::query("SELECT name, password_hash, scram FROM tidemill_users WHERE name = ?")
            .bind(name.to_owned())
            .fetch_optional(self.jobs.pool())
            .await
            .map_err(failed("read a user"))?;
        let Some(row) = row else { return Ok(None) };
        let read = failed("read a user");
        let stored: String = row.try_get("name").map_err(&read)?;
        let hash: String = row.try_get("password_hash").map_err(&read)?;
        let scram: Option<String> = row.try_get("scram").map_err(&read)?;
        Ok((stored == name).then_some(Kept { hash, scram: scram.unwrap_or_default() }))
    }

    async fn grants_of(&self, name: &str) -> Result<Vec<Grant>, UsersError> {
        let rows = sqlx::query(
            "SELECT pipeline, permission FROM tidemill_grants WHERE user_name = ? ORDER BY pipeline, permission",
        )
        .bind(name.to_owned())
        .fetch_all(self.jobs.pool())
        .await
        .map_err(failed("read grants"))?;
        rows.iter().map(|row| read_grant(name, row)).collect()
    }
}

fn read_user(row: &sqlx::any::AnyRow) -> Result<User, UsersError> {
    let read = failed("read a user");
    let micros: i64 = row.try_get("created_at").map_err(&read)?;
    let is_admin: i64 = row.try_get("is_admin").map_err(&read)?;
    let hash: String = row.try_get("password_hash").map_err(&read)?;
    Ok(User {
        name: row.try_get("name").map_err(&read)?,
        is_admin: is_admin != 0,
        created_at: DateTime::<Utc>::from_timestamp_micros(micros).unwrap_or_default(),
        grants: Vec::new(),
        password_mark: mark(&hash),
    })
}

fn read_grant(user: &str, row: &sqlx::any::AnyRow) -> Result<Grant, UsersError> {
    let read = failed("read grants");
    let scope: String = row.try_get("pipeline").map_err(&read)?;
    let permission: String = row.try_get("permission").map_err(&read)?;
    let malformed = |what: String| UsersError::Malformed { user: user.to_owned(), what };
    Ok(Grant {
        scope: Scope::parse(&scope).map_err(|error| malformed(error.to_string()))?,
        permission: Permission::parse(&permission)
            .ok_or_else(|| malformed(format!("`{permission}` is not a permission")))?,
    })
}

fn failed(action: &'static str) -> impl Fn(sqlx::Error) -> UsersError {
    move |source| UsersError::Database { action, source }
}

fn is_taken(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.is_unique_violation())
}
