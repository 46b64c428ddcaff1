//! `tidemill user`: users and what they may do, in the job database.

use std::io::{BufRead, Read};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tidemill_gateway::{Grant, Permission, Scope, Users};

use super::tables::table;
use super::{job_store, print_json, print_text, random_password};
use crate::cli::{self, GrantArgs, UserCommand};
use crate::parts::Parts;
use crate::settings::Secret;

/// A line longer than the longest password is not read whole.
const PASSWORD_LINE_BYTES_MAX: u64 = 4 << 10;

/// Runs one of the commands over users.
pub async fn run(parts: &Parts, command: &UserCommand, json: bool) -> Result<ExitCode> {
    let users = Users::new(&job_store(parts).await?);
    match command {
        UserCommand::Add { name, admin, password_stdin } => {
            let (password, made_here) = password(*password_stdin)?;
            users.add(name, password.to_secrecy(), *admin).await?;
            told(name, "added", made_here.then_some(&password), json)
        }
        UserCommand::Passwd { name, password_stdin } => {
            let (password, made_here) = password(*password_stdin)?;
            users.set_password(name, password.to_secrecy()).await?;
            told(name, "changed", made_here.then_some(&password), json)
        }
        UserCommand::Remove { name } => {
            users.remove(name).await?;
            told(name, "removed", None, json)
        }
        UserCommand::Grant(args) => {
            users.grant(&args.name, &grant(args)?).await?;
            told(&args.name, "granted", None, json)
        }
        UserCommand::Revoke(args) => {
            if !users.revoke(&args.name, &grant(args)?).await? {
                bail!("user `{}` has no such permission", args.name);
            }
            told(&args.name, "revoked", None, json)
        }
        UserCommand::List => list(&users, json).await,
    }
}

/// The password, and whether it was made here.
fn password(from_stdin: bool) -> Result<(Secret, bool)> {
    if !from_stdin {
        return Ok((random_password(), true));
    }
    let mut line = String::new();
    let mut input = std::io::stdin().lock().take(PASSWORD_LINE_BYTES_MAX);
    std::io::BufReader::new(&mut input).read_line(&mut line).context("failed to read the password")?;
    Ok((Secret::new(line.trim_end_matches(['\r', '\n'])), false))
}

fn grant(args: &GrantArgs) -> Result<Grant> {
    let permission = match args.permission {
        cli::Permission::Send => Permission::Send,
        cli::Permission::Read => Permission::Read,
    };
    Ok(Grant { scope: Scope::parse(&args.pipeline)?, permission })
}

fn told(name: &str, done: &str, password: Option<&Secret>, json: bool) -> Result<ExitCode> {
    if json {
        return print_json(&json!({ "user": name, "done": done, "password": password.map(Secret::expose) }));
    }
    match password {
        Some(password) => {
            print_text(&format!("{done} `{name}`, password {} (told only now)", password.expose()))
        }
        None => print_text(&format!("{done} `{name}`")),
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(users: &Users, json: bool) -> Result<ExitCode> {
    let users = users.list().await?;
    let grants = |user: &tidemill_gateway::User| -> Vec<String> {
        user.grants
            .iter()
            .map(|grant| format!("{} {}", grant.permission.as_str(), grant.scope.as_str()))
            .collect()
    };
    if json {
        let users: Vec<_> = users
            .iter()
            .map(|user| {
                let grants = user.grants.iter().map(|grant| {
                    json!({ "pipeline": grant.scope.as_str(), "permission": grant.permission.as_str() })
                });
                let grants: Vec<_> = grants.collect();
                json!({ "user": user.name, "admin": user.is_admin, "created_at": user.created_at, "grants": grants })
            })
            .collect();
        return print_json(&json!({ "users": users }));
    }
    let rows = users.iter().map(|user| {
        let may = if user.is_admin { "everything".to_owned() } else { grants(user).join(", ") };
        vec![user.name.clone(), may, user.created_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)]
    });
    print_text(&table(&["user", "may", "created"], rows));
    Ok(ExitCode::SUCCESS)
}
