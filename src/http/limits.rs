//! Rate limits of the endpoints that the specification marks as rate-limited.
//!
//! Each caller (an address, where the caller has no name) has an allowance per class of endpoints: so many requests at
//! once, and then so many a second. Logins and registrations are scarce, because each costs a password hash or makes an
//! account; the rest is generous and stops only loops.
//!
//! The state is one number per caller and class: the time at which its allowance is full again (the "generic cell rate
//! algorithm"). Whose allowance is full is the same as unknown, so old entries vanish without harm, and their number is
//! bounded. Nothing is stored: a restart forgives.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::{Duration, Instant},
};

use http::Method;
use parking_lot::Mutex;

use super::Info;
use crate::{
    clock,
    error::{Error, Result},
};

/// How many callers are remembered; 16 bytes and their share of the table each.
const MAX_ENTRIES: usize = 1 << 16;

/// What is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Proving who one is: logins, password changes and resets, refreshing tokens.
    Login,
    /// Making accounts.
    Registration,
    /// What reaches other people: messages, invites, joins, reports, uploads.
    Sending,
    /// Everything else.
    Other,
}

/// A number of requests at once, and the time in which one of them is given back.
struct Allowance {
    burst: u32,
    interval: Duration,
}

impl Class {
    /// The class of a route.
    pub fn of(route: &Info) -> Self {
        let rest = ["/_matrix/client/v3/", "/_matrix/client/v1/", "/_synapse/admin/v1/"]
            .iter()
            .find_map(|api| route.path.strip_prefix(api))
            .unwrap_or(route.path);
        match rest.split('/').next().unwrap_or_default() {
            _ if route.method == Method::GET => Class::Other,
            "login" | "refresh" | "account" => Class::Login,
            "register" => Class::Registration,
            _ => Class::Sending,
        }
    }

    fn allowance(self) -> Allowance {
        let (burst, per_minute) = match self {
            Class::Login => (10, 20),
            Class::Registration => (10, 10),
            Class::Sending => (100, 600),
            Class::Other => (300, 3000),
        };
        Allowance { burst, interval: Duration::from_secs(60) / per_minute }
    }
}

/// The allowances of all callers.
pub struct Limits {
    enabled: bool,
    started: Instant,
    hasher: RandomState,
    /// Hash of class and caller -> when the allowance is full again. The hash is keyed at random, so nobody can choose
    /// a name that collides with another's.
    full_at: Mutex<HashMap<u64, Duration>>,
}

impl Limits {
    /// Full allowances for everyone; with `enabled` false, without end.
    pub fn new(enabled: bool) -> Self {
        Self { enabled, started: clock::instant(), hasher: RandomState::new(), full_at: Mutex::default() }
    }

    /// Counts a request to `route` by the caller of that name, or from `address` if there is no name.
    ///
    /// # Errors
    /// `M_LIMIT_EXCEEDED` with the time after which the same request would be accepted.
    pub fn count(&self, route: &Info, caller: Option<&str>, address: IpAddr) -> Result<()> {
        let class = Class::of(route);
        match caller {
            Some(name) => self.take(class, name),
            None => self.take_from(class, address),
        }
    }

    /// Takes one request of `class` from an address's allowance. The addresses of one IPv6 network (/64) share one, since
    /// whoever has one of them has all.
    ///
    /// # Errors
    /// As [`Limits::count`].
    pub fn take_from(&self, class: Class, address: IpAddr) -> Result<()> {
        let network = match address.to_canonical() {
            IpAddr::V4(ip) => u128::from(u32::from(ip)),
            IpAddr::V6(ip) => u128::from(ip) >> 64 << 64,
        };
        self.take_at(self.started.elapsed(), class, self.hasher.hash_one((class, network)))
    }

    /// Takes one request of `class` from the allowance of `name`, such as the account that someone tries to log in to.
    ///
    /// # Errors
    /// As [`Limits::count`].
    pub fn take(&self, class: Class, name: &str) -> Result<()> {
        self.take_at(self.started.elapsed(), class, self.hasher.hash_one((class, name)))
    }

    fn take_at(&self, now: Duration, class: Class, key: u64) -> Result<()> {
        if !self.enabled {
            return Ok(());
        }
        let Allowance { burst, interval } = class.allowance();
        let mut full_at = self.full_at.lock();
        if full_at.len() >= MAX_ENTRIES && !full_at.contains_key(&key) {
            make_room(&mut full_at, now);
        }
        let full = full_at.entry(key).or_insert(now);
        let next = (*full).max(now) + interval;
        let wait = next.saturating_sub(now + interval * burst);
        if wait.is_zero() {
            *full = next;
            Ok(())
        } else {
            Err(Error::limit_exceeded(wait))
        }
    }
}

/// Forgets whose allowance is full. If that is not enough, the half with the fullest allowances, so that who is refused
/// now stays refused.
fn make_room(full_at: &mut HashMap<u64, Duration>, now: Duration) {
    full_at.retain(|_, full| *full > now);
    if full_at.len() <= MAX_ENTRIES / 2 {
        return;
    }
    let mut times: Vec<_> = full_at.values().copied().collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    full_at.retain(|_, full| *full > median);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: Method, path: &'static str) -> Info {
        Info { operation: "", method, path, rate_limited: true }
    }

    #[test]
    fn burst_then_rate_then_recovery() {
        let limits = Limits::new(true);
        let mut now = Duration::from_secs(5);
        for _ in 0..10 {
            limits.take_at(now, Class::Login, 1).unwrap();
        }
        let error = limits.take_at(now, Class::Login, 1).unwrap_err();
        assert_eq!(error.status(), 429);
        assert!(limits.take_at(now, Class::Login, 2).is_ok(), "another caller has an allowance of its own");
        now += Duration::from_secs(3);
        limits.take_at(now, Class::Login, 1).unwrap();
        limits.take_at(now, Class::Login, 1).unwrap_err();
        now += Duration::from_secs(3600);
        for _ in 0..10 {
            limits.take_at(now, Class::Login, 1).unwrap();
        }
        limits.take_at(now, Class::Login, 1).unwrap_err();
    }

    #[test]
    fn disabled_counts_nothing() {
        let limits = Limits::new(false);
        for _ in 0..1000 {
            limits.take(Class::Registration, "@a:b").unwrap();
        }
        assert!(limits.full_at.lock().is_empty());
    }

    #[test]
    fn memory_is_bounded_and_the_refused_stay_refused() {
        let limits = Limits::new(true);
        let now = Duration::from_secs(1);
        for _ in 0..10 {
            limits.take_at(now, Class::Login, u64::MAX).unwrap();
        }
        for key in 0..3 * MAX_ENTRIES as u64 {
            limits.take_at(now, Class::Login, key).unwrap();
        }
        assert!(limits.full_at.lock().len() <= MAX_ENTRIES);
        limits.take_at(now, Class::Login, u64::MAX).unwrap_err();
    }

    #[test]
    fn one_ipv6_network_is_one_caller() {
        let limits = Limits::new(true);
        for host in 0..10 {
            limits.take_from(Class::Login, format!("2001:db8::{host:x}").parse().unwrap()).unwrap();
        }
        limits.take_from(Class::Login, "2001:db8::ffff".parse().unwrap()).unwrap_err();
        limits.take_from(Class::Login, "2001:db8:0:1::1".parse().unwrap()).unwrap();
    }

    #[test]
    fn classes() {
        for (method, path, class) in [
            (Method::GET, "/_matrix/client/v3/login", Class::Other),
            (Method::POST, "/_matrix/client/v3/login", Class::Login),
            (Method::POST, "/_matrix/client/v3/account/password", Class::Login),
            (Method::GET, "/_matrix/client/v3/account/whoami", Class::Other),
            (Method::POST, "/_matrix/client/v3/register", Class::Registration),
            (Method::GET, "/_matrix/client/v3/register/available", Class::Other),
            (Method::POST, "/_synapse/admin/v1/register", Class::Registration),
            (Method::POST, "/_matrix/client/v3/rooms/{room_id}/join", Class::Sending),
            (Method::GET, "/_matrix/client/v3/voip/turnServer", Class::Other),
        ] {
            assert_eq!(Class::of(&info(method, path)), class, "{path}");
        }
    }
}
