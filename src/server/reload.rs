//! The configuration is read again while the server runs: at an administrator's word (`admin/server.rs`), or at a
//! signal (`start.rs`).
//!
//! First everything is made that can fail, then everything is put into effect: of a faulty file nothing is. What was
//! made from options and is kept is named here; everybody else asks [`Server::config`] each time.

use super::Server;
use crate::{
    appservice::Registered,
    config::{Changes, RateLimit, RateLimits},
    error::{Error, Result},
    http::limits::{Allowance, Allowances},
    outgoing::{Ways, mail::Outlet},
};

/// What came of it.
#[derive(Debug)]
pub struct Reloaded {
    /// What is different.
    pub changes: Changes,
    /// What the administrator should know, as at the start.
    pub warnings: Vec<String>,
}

/// Reads the configuration again and puts into effect what can change while the server runs. The files that it names
/// are read again as well: registrations of application services, certificates.
///
/// # Errors
/// What is wrong with the configuration, or with a file that it names; nothing is changed then.
pub fn reload(server: &Server) -> Result<Reloaded> {
    let Some(program) = server.program.get() else {
        return Err(Error::not_found("This server did not read its configuration from a file."));
    };
    let _turn = server.reloading.lock();
    let running = server.config();
    let (mut config, warnings) = (program.read_config)().map_err(|error| Error::invalid_param(error.to_string()))?;
    let changes = config.succeed(&running);
    let ways = Ways::new(&config)?;
    let outlet = Outlet::new(&config)?;
    // What an administrator registers meanwhile is not lost.
    let _appservices = server.appservices.hold();
    let (registered, problems) =
        Registered::read(&config.appservice_registrations, &server.store, &config.server_name)?;
    if !problems.is_empty() {
        return Err(Error::invalid_param(problems.join("; ")));
    }
    let certificate = server.tls.as_ref().map(|tls| tls.load_again()).transpose()?;
    (program.set_log)(&config.log).map_err(|error| Error::invalid_param(format!("log: {error}")))?;

    if let Some((tls, certificate)) = server.tls.as_ref().zip(certificate) {
        tls.set(certificate);
    }
    server.federation.outgoing.set(ways);
    server.mailer.set(outlet);
    server.appservices.set(registered);
    server.limits.set(allowances(&config.rate_limits));
    // Who is on the way to the identity provider is not interrupted without need.
    if (&config.sso, config.well_known_client()) != (&running.sso, running.well_known_client()) {
        server.sso.set(&config.sso, &config.well_known_client());
    }
    server.config.set(config);
    Ok(Reloaded { changes, warnings })
}

/// The allowances that the configuration gives to each caller; `None` without limits.
pub fn allowances(limits: &RateLimits) -> Option<Allowances> {
    let of = |limit: &RateLimit| Allowance { per_second: limit.per_second, burst: limit.burst };
    limits.enabled.then(|| Allowances {
        login: of(&limits.login),
        registration: of(&limits.registration),
        mail: of(&limits.mail),
        send: of(&limits.send),
        join: of(&limits.join),
        other: of(&limits.other),
    })
}
