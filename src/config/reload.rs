//! The configuration in effect, and what happens to it when the administrator has the files read again.

use std::{fmt, sync::Arc};

use parking_lot::RwLock;

use super::{Config, options::RESTART, setting::Setting};

/// The configuration in effect. All clones are one and the same; whoever needs an option for longer takes all options
/// as they are at that time with [`get`](Self::get).
#[derive(Clone, Debug)]
pub struct Current(Arc<RwLock<Arc<Config>>>);

/// In what a new configuration differs from the one in effect, by the options' keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What can take effect at once.
    pub at_once: Vec<String>,
    /// What takes effect with the next start.
    pub at_restart: Vec<String>,
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |keys: &[String]| if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") };
        write!(f, "{} changed", list(&self.at_once))?;
        if !self.at_restart.is_empty() {
            write!(f, "; {} will change with the next start", list(&self.at_restart))?;
        }
        Ok(())
    }
}

impl Current {
    /// Puts a configuration into effect.
    pub fn new(config: Config) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(config))))
    }

    /// The options as they are now.
    pub fn get(&self) -> Arc<Config> {
        Arc::clone(&self.0.read())
    }

    /// Puts another configuration into effect.
    pub fn set(&self, config: Config) {
        *self.0.write() = Arc::new(config);
    }
}

impl Config {
    /// Makes this a configuration that can take the place of `running` while the server runs: what cannot change keeps
    /// its value of there. Gives what differs.
    pub fn succeed(&mut self, running: &Self) -> Changes {
        let mut changes = Changes::default();
        Setting::succeed(self, running, "", &mut changes);
        changes
    }
}

/// Whether the option, or the table that it is in, keeps its value until the next start.
pub(super) fn needs_restart(path: &str) -> bool {
    RESTART.iter().any(|known| path.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{RateLimit, Secret, load};

    #[test]
    fn what_cannot_change_keeps_its_value_and_is_told() {
        let running = Config { registration_token: Some(Secret::new("old")), ..Config::default() };
        let mut new = running.clone();
        assert_eq!(new.succeed(&running), Changes::default());
        new.port = vec![8448];
        new.media.path = Some(PathBuf::from("/elsewhere"));
        new.tls.certs = Some(PathBuf::from("/cert.pem"));
        new.registration_token = Some(Secret::new("new"));
        new.rate_limits.login = RateLimit { per_second: 1.0, burst: 1 };
        let changes = new.succeed(&running);
        assert_eq!(changes.at_once, ["registration_token", "rate_limits.login"]);
        assert_eq!(changes.at_restart, ["port", "tls.certs", "media.path"]);
        assert_eq!((&new.port, &new.tls, &new.media), (&running.port, &running.tls, &running.media));
        assert!(new.registration_token.as_ref().unwrap().matches("new"));
        assert_eq!(
            changes.to_string(),
            "registration_token, rate_limits.login changed; port, tls.certs, media.path will change with the next start"
        );
    }

    #[test]
    fn every_option_that_needs_a_restart_is_one() {
        let known = load::names(&mut Config::default(), "", ".");
        for option in RESTART {
            assert!(known.contains(&option.to_owned()), "{option} is no option");
        }
    }
}
