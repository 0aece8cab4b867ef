//! From names to addresses, through the system's resolver, without being a burden to it.
//!
//! The resolver of a small machine is a small resolver: some drop what comes too fast, some answer errors for record
//! types they do not know, some forget everything while they restart. So answers are kept for as long as they are valid
//! and at least a minute, failures too; an answer that is no longer valid serves on if no new one can be had; one query
//! at a time asks for a name, a few in all, fewer when answers stay away, the newest first where more wait; and
//! addresses of a family that the machine has no route for are not asked for.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::rr::{RData, RecordType},
};
use parking_lot::RwLock;
use quick_cache::{Weighter, sync::Cache};
use tokio::time::timeout;

use super::{stack::Stack, turns::Turns};
use crate::clock;

/// Bytes of answers kept: those for about 5,000 names.
const CACHE_BYTES: u64 = 2 * 1024 * 1024;

/// How long an answer is used at least, and at most, whatever it says itself.
const FRESH: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 60 * 60));

/// The same for the answer that there is nothing, and how long after a failure the resolver is left in peace.
const NOTHING: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(60 * 60));
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// How many queries run at once while all is well, and at least.
const QUERIES: usize = 16;
const LEAST_QUERIES: usize = 4;

/// How long an answer is waited for, with the query sent four times within the first second or so; and how often that
/// is done. A resolver that takes longer to find out knows by the time it is asked again.
const PATIENCE: Duration = Duration::from_millis(2_500);
const TRIES: usize = 4;

/// After how many answers one more query runs at once, if some were lost before.
const ANSWERS_FOR_ONE_MORE: usize = 16;

/// How long the second family of addresses is waited for once the first is there.
const SECOND_FAMILY: Duration = Duration::from_millis(500);

/// How often the resolver's file and the machine's routes are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Where the system says which resolver to use.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The addresses of names, whatever the port: in place of DNS.
pub type NameMap = Arc<RwLock<HashMap<String, SocketAddr>>>;

/// Where names are looked up.
#[derive(Clone)]
pub enum Network {
    /// As the system says (`/etc/resolv.conf`, `/etc/hosts`).
    System,
    /// At the resolver with this address.
    Resolver(SocketAddr),
    /// In a list.
    Names(NameMap),
}

/// See the module.
pub(super) struct Names {
    network: Network,
    resolver: RwLock<System>,
    answers: Cache<Question, Answer, Weight>,
    asking: Turns<Question>,
    queries: Stack,
    /// How many may run at once now, and how many answers came since that last changed.
    at_once: AtomicUsize,
    answered: AtomicUsize,
}

/// The resolver as it was last configured, and the machine's routes.
struct System {
    resolver: Option<TokioResolver>,
    modified: Option<SystemTime>,
    looked: Option<Instant>,
    routes: Routes,
}

/// The families of addresses that lead anywhere.
#[derive(Clone, Copy)]
struct Routes {
    v4: bool,
    v6: bool,
}

/// A name in lower case and what is asked about it.
type Question = (String, RecordType);

/// What was found; nothing if there is nothing, or why it is not known.
type Outcome = Result<Arc<[Found]>, Arc<str>>;

#[derive(Clone)]
struct Answer {
    found: Outcome,
    /// When it was asked for, and until when it need not be asked for again.
    asked: Instant,
    until: Instant,
}

/// Why a query brought no answer.
enum Failed {
    /// There was none.
    Lost,
    /// The resolver says so.
    Refused(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Address(IpAddr),
    Server { priority: u16, weight: u16, port: u16, target: String },
}

#[derive(Clone)]
struct Weight;

impl Weighter<Question, Answer> for Weight {
    fn weight(&self, (name, _): &Question, answer: &Answer) -> u64 {
        let found = answer.found.as_ref().map_or(0, |found| found.len() * size_of::<Found>());
        (128 + name.len() + found) as u64
    }
}

impl Names {
    pub(super) fn new(network: Network) -> Self {
        let system = System { resolver: None, modified: None, looked: None, routes: Routes { v4: true, v6: true } };
        Self {
            network,
            resolver: RwLock::new(system),
            answers: Cache::with_weighter(5_000, CACHE_BYTES, Weight),
            asking: Turns::default(),
            queries: Stack::new(QUERIES),
            at_once: AtomicUsize::new(QUERIES),
            answered: AtomicUsize::new(0),
        }
    }

    /// The addresses of a host, which may be an IP address itself, with the given port.
    ///
    /// # Errors
    /// The reason, when there are none or the resolver does not tell.
    pub(super) async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        if let Network::Names(map) = &self.network {
            let found = map.read().get(host).copied();
            return found.map(|address| vec![address]).ok_or_else(|| format!("there is no host {host}"));
        }
        let Routes { v4, v6 } = self.system().1;
        let (v4, v6) = match (v4, v6) {
            (true, false) => (self.ask(host, RecordType::A).await, Ok(Arc::default())),
            (false, true) => (Ok(Arc::default()), self.ask(host, RecordType::AAAA).await),
            _ => both(self.ask(host, RecordType::A), self.ask(host, RecordType::AAAA)).await,
        };
        let failure = v4.as_ref().err().or(v6.as_ref().err()).cloned();
        let found = [v6, v4].into_iter().flatten().flat_map(|found| found.to_vec());
        let addresses: Vec<_> = found
            .filter_map(|found| match found {
                Found::Address(address) => Some(SocketAddr::new(address, port)),
                Found::Server { .. } => None,
            })
            .collect();
        match failure {
            Some(why) if addresses.is_empty() => Err(format!("{host} cannot be looked up: {why}")),
            None if addresses.is_empty() => Err(format!("there is no host {host}")),
            _ => Ok(addresses),
        }
    }

    /// The homeservers that the SRV records of a host name, with their ports, in the order in which they are to be tried;
    /// none if there are no such records, or the resolver does not tell.
    pub(super) async fn servers(&self, host: &str) -> Vec<(String, u16)> {
        if matches!(self.network, Network::Names(_)) {
            return Vec::new();
        }
        // The second is the name of before Matrix 1.8.
        for service in ["_matrix-fed._tcp", "_matrix._tcp"] {
            let found = self.ask(&format!("{service}.{host}"), RecordType::SRV).await.unwrap_or_default();
            // A target of "." says that there is no such service at this name (RFC 2782).
            let found: Vec<_> = found
                .iter()
                .filter_map(|found| match found {
                    Found::Server { priority, weight, port, target } if !target.is_empty() => {
                        Some((*priority, *weight, (target.clone(), *port)))
                    }
                    _ => None,
                })
                .collect();
            if !found.is_empty() {
                return by_priority(found);
            }
        }
        Vec::new()
    }

    /// Forgets the addresses of a host that were asked for more than a minute ago; gives whether there were any.
    pub(super) fn forget(&self, host: &str) -> bool {
        let mut forgotten = false;
        for kind in [RecordType::A, RecordType::AAAA] {
            let question = (host.to_ascii_lowercase(), kind);
            if self.answers.get(&question).is_some_and(|answer| answer.asked.elapsed() > FRESH.0) {
                forgotten |= self.answers.remove(&question).is_some();
            }
        }
        forgotten
    }

    /// What is remembered of a question, else what the resolver answers.
    async fn ask(&self, name: &str, kind: RecordType) -> Outcome {
        let question = (name.to_ascii_lowercase(), kind);
        if let Some(answer) = self.answers.get(&question).filter(|answer| answer.until > clock::instant()) {
            return answer.found;
        }
        let _turn = self.asking.wait(&question).await;
        let known = self.answers.get(&question);
        if let Some(answer) = known.clone().filter(|answer| answer.until > clock::instant()) {
            return answer.found;
        }
        let answer = self.query(&question, known).await;
        self.answers.insert(question, answer.clone());
        answer.found
    }

    async fn query(&self, (name, kind): &Question, known: Option<Answer>) -> Answer {
        let asked = clock::instant();
        let mut found = self.query_resolver(name, *kind, true).await;
        for _ in 1..TRIES {
            if !matches!(found, Err(Failed::Lost)) {
                break;
            }
            found = self.query_resolver(name, *kind, false).await;
        }
        match found {
            Ok((found, ttl)) => {
                let (least, most) = if found.is_empty() { NOTHING } else { FRESH };
                Answer { found: Ok(found.into()), asked, until: clock::instant() + ttl.clamp(least, most) }
            }
            Err(failed) => {
                let why = || match failed {
                    Failed::Lost => Arc::from("the resolver does not answer"),
                    Failed::Refused(why) => Arc::from(why),
                };
                let known = known.filter(|known| known.found.is_ok());
                let found = known.map_or_else(|| Err(why()), |known| known.found);
                Answer { found, asked, until: clock::instant() + AFTER_FAILURE }
            }
        }
    }

    /// Asks the resolver, when it is our turn to; whether it is the `first` time.
    async fn query_resolver(
        &self,
        name: &str,
        kind: RecordType,
        first: bool,
    ) -> Result<(Vec<Found>, Duration), Failed> {
        let resolver = self.system().0.map_err(Failed::Refused)?;
        // With a dot, a name is whole: search domains are for the short names of a local network.
        let whole = if name.contains('.') { format!("{name}.") } else { name.to_owned() };
        let turn = self.queries.take().await;
        match resolver.lookup(whole, kind).await {
            Ok(lookup) => {
                self.was_answered();
                let ttl = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
                let found = lookup.answers().iter().filter_map(|record| found(&record.data)).collect();
                Ok((found, Duration::from_secs(ttl.into())))
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => {
                self.was_answered();
                Ok((Vec::new(), Duration::from_secs(nothing.negative_ttl.unwrap_or(0).into())))
            }
            Err(NetError::Timeout) => {
                // Fewer at once: it may be that it is asked too fast. If nobody answers for the name, that is said
                // once.
                if first && self.at_once.load(Ordering::Relaxed) > LEAST_QUERIES {
                    self.at_once.fetch_sub(1, Ordering::Relaxed);
                    turn.forget();
                }
                Err(Failed::Lost)
            }
            Err(error) => Err(Failed::Refused(error.to_string())),
        }
    }

    fn was_answered(&self) {
        let answered = self.answered.fetch_add(1, Ordering::Relaxed) + 1;
        if answered.is_multiple_of(ANSWERS_FOR_ONE_MORE) && self.at_once.load(Ordering::Relaxed) < QUERIES {
            self.at_once.fetch_add(1, Ordering::Relaxed);
            self.queries.add();
        }
    }

    /// The resolver and routes as the system has them now.
    fn system(&self) -> (Result<TokioResolver, String>, Routes) {
        let due = |system: &System| system.looked.is_none_or(|looked| looked.elapsed() > LOOK_AGAIN);
        let told = |system: &System| {
            let resolver = system.resolver.clone().ok_or_else(|| "the resolver's configuration is damaged".to_owned());
            (resolver, system.routes)
        };
        {
            let system = self.resolver.read();
            if !due(&system) {
                return told(&system);
            }
        }
        let mut system = self.resolver.write();
        if due(&system) {
            let modified = Path::new(RESOLV_CONF).metadata().and_then(|metadata| metadata.modified()).ok();
            if system.resolver.is_none() || modified != system.modified {
                system.resolver = resolver(&self.network);
                system.modified = modified;
            }
            system.routes = if matches!(self.network, Network::System) { routes() } else { system.routes };
            system.looked = Some(clock::instant());
        }
        told(&system)
    }
}

/// Both outcomes, but the second family is not waited for long once the first brought something.
async fn both(first: impl Future<Output = Outcome>, second: impl Future<Output = Outcome>) -> (Outcome, Outcome) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let is_enough = |outcome: &Outcome| outcome.as_ref().is_ok_and(|found| !found.is_empty());
    let late = || Ok(Arc::default());
    tokio::select! {
        a = &mut first => {
            let b = if is_enough(&a) { timeout(SECOND_FAMILY, second).await.unwrap_or_else(|_| late()) } else { second.await };
            (a, b)
        }
        b = &mut second => {
            let a = if is_enough(&b) { timeout(SECOND_FAMILY, first).await.unwrap_or_else(|_| late()) } else { first.await };
            (a, b)
        }
    }
}

fn resolver(network: &Network) -> Option<TokioResolver> {
    let local = || ResolverConfig::from_name_servers(vec![NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into())]);
    let mut builder = match network {
        Network::Resolver(address) => {
            let mut server = NameServerConfig::udp(address.ip());
            server.connections.iter_mut().for_each(|connection| connection.port = address.port());
            let config = ResolverConfig::from_name_servers(vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
        // Without the file, a resolver on this machine is what the C library would ask as well.
        _ => TokioResolver::builder_tokio()
            .unwrap_or_else(|_| TokioResolver::builder_with_config(local(), TokioRuntimeProvider::default())),
    };
    // What is remembered is remembered here.
    builder.options_mut().cache_size = 0;
    (builder.options_mut().timeout, builder.options_mut().attempts) = (PATIENCE, 0);
    builder.build().ok()
}

/// Whether the machine has a route out, for each family. Nothing is sent.
fn routes() -> Routes {
    let leads = |local: IpAddr, remotes: &[IpAddr]| -> bool {
        let reaches = |remote: &IpAddr| -> io::Result<()> { UdpSocket::bind((local, 0))?.connect((*remote, 53)) };
        remotes.iter().any(|remote| reaches(remote).is_ok())
    };
    // Addresses for documentation, so that nobody is named here; and 200::/7, which a meshed network uses.
    let v4 = leads(Ipv4Addr::UNSPECIFIED.into(), &[Ipv4Addr::new(192, 0, 2, 1).into()]);
    let documentation = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let v6 =
        leads(Ipv6Addr::UNSPECIFIED.into(), &[documentation.into(), Ipv6Addr::new(0x200, 0, 0, 0, 0, 0, 0, 1).into()]);
    Routes { v4, v6 }
}

fn found(data: &RData) -> Option<Found> {
    match data {
        RData::A(address) => Some(Found::Address(address.0.into())),
        RData::AAAA(address) => Some(Found::Address(address.0.into())),
        RData::SRV(server) => Some(Found::Server {
            priority: server.priority,
            weight: server.weight,
            port: server.port,
            target: server.target.to_ascii().trim_end_matches('.').to_ascii_lowercase(),
        }),
        _ => None,
    }
}

/// The lowest priority first; among equals, by chance in proportion to their weights (RFC 2782, "Weight").
fn by_priority<T>(mut servers: Vec<(u16, u16, T)>) -> Vec<T> {
    servers.sort_by_key(|(priority, weight, _)| (*priority, *weight));
    let mut order = Vec::with_capacity(servers.len());
    while let Some((priority, ..)) = servers.first() {
        let priority = *priority;
        let group = servers.iter().take_while(|(p, ..)| *p == priority);
        let total: u64 = group.clone().map(|(_, weight, _)| u64::from(*weight)).sum();
        let chance = clock::random_bytes::<8>().map_or(0, u64::from_be_bytes) % (total + 1);
        let mut sum = 0;
        let chosen = group
            .clone()
            .position(|(_, weight, _)| {
                sum += u64::from(*weight);
                sum >= chance
            })
            .unwrap_or(0);
        order.push(servers.remove(chosen).2);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_known_serves_on_while_the_resolver_fails() {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let names = Names::new(Network::Resolver(socket.local_addr().unwrap()));
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                // The question as an answer that says SERVFAIL.
                buffer[2] |= 0x80;
                buffer[3] = (buffer[3] & 0xf0) | 2;
                socket.send_to(&buffer[..length], from).await.unwrap();
            }
        });
        let past = clock::instant();
        for (kind, found) in [(RecordType::A, Some(Ipv4Addr::LOCALHOST)), (RecordType::AAAA, None)] {
            let found: Vec<_> = found.into_iter().map(|address| Found::Address(address.into())).collect();
            names
                .answers
                .insert(("known.test".to_owned(), kind), Answer { found: Ok(found.into()), asked: past, until: past });
        }
        let known = names.addresses("known.test", 80).await;
        assert_eq!(known.unwrap(), [SocketAddr::from((Ipv4Addr::LOCALHOST, 80))]);
        let unknown = names.addresses("unknown.test", 80).await;
        assert!(unknown.clone().is_err_and(|why| why.contains("cannot be looked up")), "{unknown:?}");
    }

    #[test]
    fn servers_are_tried_by_priority_and_weight() {
        let servers = || vec![(20, 0, "last"), (10, 1, "seldom"), (10, 1000, "often")];
        let mut firsts = HashMap::<_, u32>::new();
        for _ in 0..500 {
            let order = by_priority(servers());
            assert_eq!((order.len(), order[2]), (3, "last"));
            *firsts.entry(order[0]).or_default() += 1;
        }
        assert!(firsts["often"] > 400, "{firsts:?}");
    }
}
