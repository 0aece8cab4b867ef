//! Rate limits of the endpoints that the specification marks as rate-limited.
//!
//! Each caller (an address, where the caller has no name) has an allowance per class of endpoints: so many requests at
//! once after a pause, and then so many a second.
//!
//! The state is one number per caller and class: the time at which its allowance is full again (the "generic cell rate
//! algorithm"). Whose allowance is full is the same as unknown, so old entries vanish without harm, and their number is
//! bounded. Nothing is stored: a restart forgives.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use http::Method;
use parking_lot::{Mutex, RwLock};

use super::Info;
use crate::{
    clock,
    error::{Error, Result},
};

/// How many callers are remembered; 16 bytes and their share of the table each.
const MAX_ENTRIES: usize = 1 << 16;

/// When a request is given back at a rate of zero.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// What is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Proving who one is, which costs a password hash.
    Login,
    /// Making accounts, and trying registration tokens.
    Registration,
    /// Having mails sent to an address.
    Mail,
    /// Events for rooms.
    Send,
    /// Joining, knocking and inviting, which can cost much state.
    Join,
    /// Everything else.
    Other,
}

/// How much a caller may do.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// How many requests are allowed each second for ever.
    pub per_second: f64,
    /// How many are allowed at once after a pause.
    pub burst: u32,
}

/// The allowance of each class.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the fields are the classes")]
pub struct Allowances {
    pub login: Allowance,
    pub registration: Allowance,
    pub mail: Allowance,
    pub send: Allowance,
    pub join: Allowance,
    pub other: Allowance,
}

impl Class {
    /// The class of a route.
    pub fn of(route: &Info) -> Self {
        // "", "_matrix", "client", "v3", and then what the operation is about.
        let mut segments = route.path.split('/').skip(4);
        let subject = match segments.next().unwrap_or_default() {
            "rooms" => segments.nth(1).unwrap_or_default(),
            subject => subject,
        };
        match subject {
            _ if route.path.ends_with("/email/requestToken") => Class::Mail,
            _ if route.method == Method::POST && route.path.ends_with("/reset-password") => Class::Login,
            _ if route.method == Method::POST && route.path.ends_with("/register") => Class::Registration,
            "register" if route.path.ends_with("/validity") => Class::Registration,
            // Whoever is sent to the identity provider is remembered until they are back.
            "login" if route.path.contains("/sso/") => Class::Login,
            "auth" => Class::Login,
            _ if route.method == Method::GET => Class::Other,
            "login" | "account" => Class::Login,
            "send" | "state" | "redact" => Class::Send,
            _ if route.path.contains("/delayed_event/") => Class::Send,
            "join" | "knock" | "invite" => Class::Join,
            _ => Class::Other,
        }
    }
}

impl Allowances {
    fn of(&self, class: Class) -> Allowance {
        match class {
            Class::Login => self.login,
            Class::Registration => self.registration,
            Class::Mail => self.mail,
            Class::Send => self.send,
            Class::Join => self.join,
            Class::Other => self.other,
        }
    }
}

impl Allowance {
    /// The time in which one request is given back.
    fn interval(&self) -> Duration {
        Duration::try_from_secs_f64(1.0 / self.per_second).unwrap_or(NEVER).min(NEVER)
    }
}

/// The allowances of all callers.
pub struct Limits {
    allowances: RwLock<Option<Allowances>>,
    started: Instant,
    hasher: RandomState,
    /// Hash of class and caller -> when the allowance is full again. The hash is keyed at random, so nobody can choose
    /// a name that collides with another's.
    full_at: Mutex<HashMap<u64, Duration>>,
}

impl Limits {
    /// Full allowances for everyone; `None` is without end.
    pub fn new(allowances: Option<Allowances>) -> Self {
        Self {
            allowances: RwLock::new(allowances),
            started: clock::instant(),
            hasher: RandomState::new(),
            full_at: Mutex::default(),
        }
    }

    /// Sets other allowances; what callers have used up of theirs stays so.
    pub fn set(&self, allowances: Option<Allowances>) {
        *self.allowances.write() = allowances;
    }

    /// Counts a request to `route` by the caller of that name, or from `address` if there is no name. An allowance of
    /// the caller's `own` stands in place of that for sending.
    ///
    /// # Errors
    /// `M_LIMIT_EXCEEDED` with the time after which the same request would be accepted.
    pub fn count(&self, route: &Info, caller: Option<&str>, address: IpAddr, own: Option<Allowance>) -> Result<()> {
        let class = Class::of(route);
        match caller {
            Some(name) if class == Class::Send && own.is_some() => self.take_at(own, self.key((class, name))),
            Some(name) => self.take(class, name),
            None => self.take_from(class, address),
        }
    }

    /// Takes one request of `class` from an address's allowance.
    ///
    /// # Errors
    /// As [`Limits::count`].
    pub fn take_from(&self, class: Class, address: IpAddr) -> Result<()> {
        self.take_at(self.allowance(class), self.key((class, network(address))))
    }

    /// Takes one request of `class` from the allowance of `name`, such as the account that someone tries to log in to.
    ///
    /// # Errors
    /// As [`Limits::count`].
    pub fn take(&self, class: Class, name: &str) -> Result<()> {
        self.take_at(self.allowance(class), self.key((class, name)))
    }

    /// What everybody may do, if there is a limit.
    fn allowance(&self, class: Class) -> Option<Allowance> {
        self.allowances.read().map(|all| all.of(class))
    }

    fn key(&self, of: impl Hash) -> (Duration, u64) {
        (self.started.elapsed(), self.hasher.hash_one(of))
    }

    fn take_at(&self, allowance: Option<Allowance>, (now, key): (Duration, u64)) -> Result<()> {
        let Some(allowance) = allowance else { return Ok(()) };
        let interval = allowance.interval();
        let mut full_at = self.full_at.lock();
        if full_at.len() >= MAX_ENTRIES && !full_at.contains_key(&key) {
            make_room(&mut full_at, now);
        }
        let full = full_at.entry(key).or_insert(now);
        let next = (*full).max(now) + interval;
        let wait = next.saturating_sub(now + interval.saturating_mul(allowance.burst));
        if wait.is_zero() {
            *full = next;
            Ok(())
        } else {
            Err(Error::limit_exceeded(wait))
        }
    }
}

/// What stands for whoever has the address: itself, or of an IPv6 address its network (/64).
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 => v4,
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

    fn limits() -> Limits {
        let login = Allowance { per_second: 1.0 / 3.0, burst: 10 };
        let never = Allowance { per_second: 0.0, burst: 1 };
        Limits::new(Some(Allowances {
            login,
            registration: never,
            mail: never,
            send: never,
            join: never,
            other: never,
        }))
    }

    #[test]
    fn burst_then_rate_then_recovery() {
        let limits = limits();
        let mut now = Duration::from_secs(5);
        for _ in 0..10 {
            limits.take_at(limits.allowance(Class::Login), (now, 1)).unwrap();
        }
        let error = limits.take_at(limits.allowance(Class::Login), (now, 1)).unwrap_err();
        assert_eq!(error.status(), 429);
        assert!(
            limits.take_at(limits.allowance(Class::Login), (now, 2)).is_ok(),
            "another caller has an allowance of its own"
        );
        now += Duration::from_secs(3);
        limits.take_at(limits.allowance(Class::Login), (now, 1)).unwrap();
        limits.take_at(limits.allowance(Class::Login), (now, 1)).unwrap_err();
        now += Duration::from_secs(3600);
        for _ in 0..10 {
            limits.take_at(limits.allowance(Class::Login), (now, 1)).unwrap();
        }
        limits.take_at(limits.allowance(Class::Login), (now, 1)).unwrap_err();
    }

    #[test]
    fn a_rate_of_zero_allows_the_burst_only() {
        let limits = limits();
        limits.take_at(limits.allowance(Class::Send), (Duration::from_secs(1), 1)).unwrap();
        limits.take_at(limits.allowance(Class::Send), (Duration::from_secs(1000), 1)).unwrap_err();
    }

    #[test]
    fn disabled_counts_nothing() {
        let limits = Limits::new(None);
        for _ in 0..1000 {
            limits.take(Class::Registration, "@a:b").unwrap();
        }
        assert!(limits.full_at.lock().is_empty());
    }

    #[test]
    fn memory_is_bounded_and_the_refused_stay_refused() {
        let limits = limits();
        let now = Duration::from_secs(1);
        for _ in 0..10 {
            limits.take_at(limits.allowance(Class::Login), (now, u64::MAX)).unwrap();
        }
        for key in 0..3 * MAX_ENTRIES as u64 {
            limits.take_at(limits.allowance(Class::Login), (now, key)).unwrap();
        }
        assert!(limits.full_at.lock().len() <= MAX_ENTRIES);
        limits.take_at(limits.allowance(Class::Login), (now, u64::MAX)).unwrap_err();
    }

    #[test]
    fn one_ipv6_network_is_one_caller() {
        let limits = limits();
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
            (Method::GET, "/_matrix/client/v3/login/sso/redirect/{idp_id}", Class::Login),
            (Method::GET, "/_matrix/client/v3/auth/m.login.sso/fallback/web", Class::Login),
            (Method::POST, "/_matrix/client/v3/account/password", Class::Login),
            (Method::GET, "/_matrix/client/v3/account/whoami", Class::Other),
            (Method::POST, "/_matrix/client/v3/register", Class::Registration),
            (Method::GET, "/_matrix/client/v3/register/available", Class::Other),
            (Method::GET, "/_matrix/client/v1/register/m.login.registration_token/validity", Class::Registration),
            (Method::POST, "/_synapse/admin/v1/register", Class::Registration),
            (Method::POST, "/register", Class::Registration),
            (Method::POST, "/_matrix/client/v3/register/email/requestToken", Class::Mail),
            (Method::POST, "/_matrix/client/v3/account/3pid/email/requestToken", Class::Mail),
            (Method::POST, "/_matrix/client/v3/account/3pid/msisdn/requestToken", Class::Login),
            (Method::POST, "/_matrix/conduit/reset-password", Class::Login),
            (Method::GET, "/register", Class::Other),
            (Method::POST, "/_matrix/client/v3/rooms/{room_id}/join", Class::Join),
            (Method::POST, "/_matrix/client/v3/join/{room_id_or_alias}", Class::Join),
            (Method::PUT, "/_matrix/client/v3/rooms/{room_id}/send/{event_type}/{txn_id}", Class::Send),
            (Method::PUT, "/_matrix/client/v3/rooms/{room_id}/typing/{user_id}", Class::Other),
            (Method::GET, "/_matrix/client/v3/voip/turnServer", Class::Other),
            (Method::GET, "/_matrix/client/versions", Class::Other),
        ] {
            assert_eq!(Class::of(&info(method, path)), class, "{path}");
        }
    }
}
