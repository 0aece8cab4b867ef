//! `conduit serve`: the server itself.
//!
//! What happens before the port is open must work under a service manager that allows little: no new privileges, no
//! other sockets than of the internet, no text but bytes in the environment.

use std::io::{IsTerminal, stderr};

use conduit::{
    config::ConfigError,
    server::{Program, ReadConfig, SetLog},
    start,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, reload, util::SubscriberInitExt};

use super::Failure;

/// Serves until the process is told to stop.
pub(super) fn run(read_config: ReadConfig) -> Result<(), Failure> {
    let (config, warnings) = read_config()?;
    let set_log = start_log(&config.log)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(Box::pin(start::run(config, Program { set_log, read_config })))?)
}

/// Logs to standard error: with time and colours for a person, without for a service manager, which adds the time.
/// Gives what changes the filter.
fn start_log(filter: &str) -> Result<SetLog, Failure> {
    let filter = parse(filter).map_err(|e| ConfigError::new(format!("log: {e}")))?;
    let (filter, handle) = reload::Layer::new(filter);
    let format = tracing_subscriber::fmt::layer().with_writer(stderr);
    let registry = tracing_subscriber::registry().with(filter);
    let started = if stderr().is_terminal() {
        registry.with(format).try_init()
    } else {
        registry.with(format.without_time().with_ansi(false)).try_init()
    };
    started.map_err(|e| Failure { status: 1, message: format!("cannot start the log: {e}") })?;
    Ok(Box::new(move |filter| handle.reload(parse(filter)?).map_err(|e| e.to_string())))
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    // State resolution warns of every event that a fork leaves out, which is what it is for.
    let filter = match filter.contains("ruma_state_res") {
        true => filter.to_owned(),
        false => format!("ruma_state_res=error,{filter}"),
    };
    EnvFilter::try_new(filter).map_err(|e| e.to_string())
}

/// Lets the process have as many open files and connections as it may. The usual soft limit of 1,024 is for programs
/// that still use select(2).
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
    {
        tracing::warn!("The limit of open files stays at {:?}: {e}", limit.current);
    }
}
