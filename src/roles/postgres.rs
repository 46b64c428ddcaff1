//! The Postgres wire beside the gateway: its address, and the users who may come in.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use tidemill_gateway::{Permission, Users, UsersError};
use tidemill_pipelines::PipelineSet;
use tidemill_query::scram::Verifier;
use tidemill_query::wire::{Accounts, AccountsError, Login, Wire, WireSettings};
use tidemill_query::{Visible, Workers};
use tokio::net::TcpListener;

use super::{Shared, listen};
use crate::crew::Crew;
use crate::parts::Parts;
use crate::settings::Settings;

/// Where `dev` listens when no address is named: beside PostgreSQL's own 5432.
pub const DEV: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5433);

/// Opens the address of the settings; `None` when the wire is off.
pub async fn listen_wire(settings: &Settings) -> Result<Option<TcpListener>> {
    match settings.postgres.listen {
        Some(address) => listen(address).await.map(Some),
        None => Ok(None),
    }
}

/// Opens the address of `dev`: that of the settings, else the usual port, or any when it is taken or HTTP has any too.
pub async fn listen_in_dev(settings: &Settings) -> Result<TcpListener> {
    if let Some(address) = settings.postgres.listen {
        return listen(address).await;
    }
    let any = SocketAddr::new(DEV.ip(), 0);
    if settings.gateway.listen.port() == 0 {
        return listen(any).await;
    }
    match TcpListener::bind(DEV).await {
        Err(error) if error.kind() == ErrorKind::AddrInUse => listen(any).await,
        bound => bound.with_context(|| format!("failed to listen on {DEV}")),
    }
}

/// Adds the wire to a crew.
pub fn add_wire(
    crew: &mut Crew,
    parts: &Parts,
    listener: TcpListener,
    shared: &Shared,
    workers: Workers,
) -> Result<()> {
    let postgres = &parts.settings().postgres;
    let secret = parts.settings().gateway.jwt_secret.as_ref().context("`gateway.jwt_secret` is missing")?;
    let settings = WireSettings {
        tls: postgres.certificate.clone().zip(postgres.key.clone()),
        connections_max: postgres.connections_max as usize,
        user_connections_max: postgres.user_connections_max as usize,
        idle: postgres.idle.get(),
        drain: parts.settings().gateway.drain.get(),
        decoy_secret: secret.expose().as_bytes().to_vec(),
        ..WireSettings::default()
    };
    let users = GatewayUsers { users: Users::new(&shared.jobs), pipelines: Arc::clone(&shared.pipelines) };
    let wire = Wire::new(settings, Arc::new(users), workers)?;
    let stop = crew.stop.clone();
    crew.front("postgres wire", async move { wire.serve(listener, stop).await });
    Ok(())
}

/// The users of the gateway, for the wire.
struct GatewayUsers {
    users: Users,
    pipelines: Arc<PipelineSet>,
}

#[async_trait]
impl Accounts for GatewayUsers {
    async fn verifier(&self, user: &str) -> Result<Option<(Verifier, String)>, AccountsError> {
        self.users.verifier(user).await.map_err(away)
    }

    async fn visible(&self, login: &Login) -> Result<Option<Visible>, AccountsError> {
        let user = self.users.logged_in(&login.user, &login.password_mark, login.at).await;
        let Some(user) = user.map_err(away)? else {
            return Ok(None);
        };
        let may_read = |pipeline: &_| user.may(Permission::Read, pipeline);
        Ok(Some(if user.is_admin { Visible::All } else { Visible::of(&self.pipelines, may_read) }))
    }
}

fn away(error: UsersError) -> AccountsError {
    AccountsError(error.to_string())
}
