//! The types of options that only a configuration has.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use lettre::message::Mailbox;
use ring::digest::{SHA256, digest};
use ruma::serde::Base64;
use toml::Value;

use super::setting::{Scalar, Setting, quote, unexpected};

/// A text that is never printed: neither by `Debug`, nor by `conduit config`, nor in a message.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// A secret with the given text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `given` is the secret. How long the answer takes says nothing about how much of it was right: digests
    /// are compared, and nobody can choose the beginning of a digest.
    pub fn matches(&self, given: &str) -> bool {
        digest(&SHA256, self.0.as_bytes()).as_ref() == digest(&SHA256, given.as_bytes()).as_ref()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// An empty secret counts as none: nothing is ever protected by an empty password.
impl Setting for Option<Secret> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let Value::String(text) = value else {
            return Err("expected a text in quotes".to_owned());
        };
        *self = (!text.is_empty()).then(|| Secret::new(text.as_str()));
        Ok(())
    }

    fn write(&self) -> Option<String> {
        self.as_ref().map(|_| quote("(hidden)"))
    }

    fn is_secret(&self) -> bool {
        true
    }
}

/// A number of bytes, given as a number or with a unit: kB, MB, GB count in thousands, KiB, MiB, GiB in 1,024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// A number of MiB.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl Scalar for ByteSize {
    fn parse(value: &Value) -> Result<Self, String> {
        let bytes = match value {
            Value::Integer(bytes) => u64::try_from(*bytes).ok(),
            Value::String(text) => bytes(text),
            _ => None,
        };
        bytes.map(Self).map_or_else(|| unexpected("a number of bytes or a size such as \"256MB\"", value), Ok)
    }

    fn print(&self) -> String {
        const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match UNITS.iter().find(|(unit, _)| self.0 > 0 && self.0.is_multiple_of(*unit)) {
            Some((unit, name)) => format!("\"{}{name}\"", self.0 / unit),
            None => self.0.to_string(),
        }
    }
}

/// The bytes in a text such as "20_000_000", "256MB" or "1.5 GiB".
fn bytes(text: &str) -> Option<u64> {
    let text = text.replace('_', "");
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let unit = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1_u64,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "ki" | "kib" => 1 << 10,
        "mi" | "mib" => 1 << 20,
        "gi" | "gib" => 1 << 30,
        "ti" | "tib" => 1 << 40,
        _ => return None,
    };
    let (whole, decimals) = number.trim().split_once('.').unwrap_or((number.trim(), ""));
    let whole: u64 = whole.parse().ok()?;
    let mut total = whole.checked_mul(unit)?;
    if !decimals.is_empty() {
        let scale = 10_u64.checked_pow(u32::try_from(decimals.len()).ok()?)?;
        total = total.checked_add(decimals.parse::<u64>().ok()?.checked_mul(unit)? / scale)?;
    }
    Some(total)
}

/// The permissions of a file, written in octal digits as for chmod: 660 or "0660".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

impl Scalar for Mode {
    fn parse(value: &Value) -> Result<Self, String> {
        let digits = value.as_integer().map_or_else(|| value.as_str().map(str::to_owned), |n| Some(n.to_string()));
        // A TOML number such as 0o660 arrives here as 432. None of the usual ones passes for a mode in which the owner
        // can read and write, which is asked for anyway.
        digits
            .and_then(|digits| u32::from_str_radix(&digits, 8).ok())
            .filter(|mode| *mode <= 0o777 && mode & 0o600 == 0o600)
            .map(Self)
            .map_or_else(
                || unexpected("permissions such as \"0660\", in which the owner can read and write", value),
                Ok,
            )
    }

    fn print(&self) -> String {
        quote(&format!("{:04o}", self.0))
    }
}

/// An `http` or `https` address without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl(String);

impl HttpUrl {
    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Scalar for HttpUrl {
    fn parse(value: &Value) -> Result<Self, String> {
        match value.as_str() {
            Some(text) if is_url(text, &["https", "http"]) => Ok(Self(text.trim_end_matches('/').to_owned())),
            _ => unexpected("an address such as \"https://matrix.example.org\"", value),
        }
    }

    fn print(&self) -> String {
        quote(&self.0)
    }
}

/// The address of a server that speaks over a WebSocket, `ws` or `wss`, without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketUrl(String);

impl SocketUrl {
    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same address for requests: `http` or `https`.
    pub fn http(&self) -> String {
        format!("http{}", self.0.trim_start_matches("ws"))
    }
}

impl Scalar for SocketUrl {
    fn parse(value: &Value) -> Result<Self, String> {
        match value.as_str() {
            Some(text) if is_url(text, &["wss", "ws"]) => Ok(Self(text.trim_end_matches('/').to_owned())),
            _ => unexpected("an address such as \"wss://livekit.example.org\"", value),
        }
    }

    fn print(&self) -> String {
        quote(&self.0)
    }
}

/// The address of a proxy for outgoing requests. Printing it leaves out the user name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(String);

impl ProxyUrl {
    /// The proxy at this address.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The address, with user name and password if it has them.
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn without_password(&self) -> String {
        match self.0.split_once("://").map(|(scheme, rest)| (scheme, rest.rsplit_once('@'))) {
            Some((scheme, Some((_, host)))) => format!("{scheme}://(hidden)@{host}"),
            _ => self.0.clone(),
        }
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.without_password())
    }
}

impl Scalar for ProxyUrl {
    fn parse(value: &Value) -> Result<Self, String> {
        match value.as_str() {
            Some(text) if is_url(text, &["http", "https", "socks5", "socks5h"]) => Ok(Self(text.to_owned())),
            // The value is not shown, since it may hold a password.
            _ => Err("expected the address of a proxy such as \"socks5h://localhost:9050\"".to_owned()),
        }
    }

    fn print(&self) -> String {
        quote(&self.without_password())
    }
}

fn is_url(text: &str, schemes: &[&str]) -> bool {
    text.parse::<http::Uri>()
        .is_ok_and(|uri| uri.host().is_some() && uri.scheme_str().is_some_and(|scheme| schemes.contains(&scheme)))
}

/// Whether `name` is what `pattern` stands for, in which each `*` is any text and each `?` any one character. Letters of
/// either case are the same.
pub fn matches(pattern: &str, name: &str) -> bool {
    let lower = |text: &str| text.to_ascii_lowercase().chars().collect::<Vec<_>>();
    let (pattern, name) = (lower(pattern), lower(name));
    let (mut at, mut read) = (0, 0);
    // Where to go on when what follows the last `*` does not fit: that `*` is one character more then.
    let mut again = None;
    while let Some(character) = name.get(read) {
        match pattern.get(at) {
            Some('*') => {
                again = Some((at + 1, read));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == character => (at, read) = (at + 1, read + 1),
            _ => {
                let Some((after, skipped)) = again else { return false };
                again = Some((after, skipped + 1));
                (at, read) = (after, skipped + 1);
            }
        }
    }
    pattern.iter().skip(at).all(|rest| *rest == '*')
}

/// A network as in "192.168.0.0/16" or "fd00::/8", or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpRange {
    address: IpAddr,
    prefix: u8,
}

impl IpRange {
    /// Whether the address is in the network. An IPv4 address that is written as an IPv6 one (mapped, or translated by
    /// NAT64) counts as what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        let shared = |bits: u32, ours: u128, theirs: u128| {
            let shift = bits - u32::from(self.prefix).min(bits);
            ours.checked_shr(shift) == theirs.checked_shr(shift)
        };
        match (self.address, embedded_v4(address)) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => shared(32, ours.to_bits().into(), theirs.to_bits().into()),
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => shared(128, ours.to_bits(), theirs.to_bits()),
            _ => false,
        }
    }

    /// What is not part of the public internet
    /// ([IPv4](https://www.iana.org/assignments/iana-ipv4-special-registry),
    /// [IPv6](https://www.iana.org/assignments/iana-ipv6-special-registry)).
    pub fn private() -> Vec<Self> {
        const RANGES: [([u16; 8], u8); 6] = [
            ([0, 0, 0, 0, 0, 0, 0, 0], 127), // unspecified and loopback
            ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
            ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
            ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
            ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),
            ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
        ];
        const RANGES_V4: [([u8; 4], u8); 15] = [
            ([0, 0, 0, 0], 8),
            ([10, 0, 0, 0], 8),
            ([100, 64, 0, 0], 10),
            ([127, 0, 0, 0], 8),
            ([169, 254, 0, 0], 16),
            ([172, 16, 0, 0], 12),
            ([192, 0, 0, 0], 24),
            ([192, 0, 2, 0], 24),
            ([192, 88, 99, 0], 24),
            ([192, 168, 0, 0], 16),
            ([198, 18, 0, 0], 15),
            ([198, 51, 100, 0], 24),
            ([203, 0, 113, 0], 24),
            ([224, 0, 0, 0], 4),
            ([240, 0, 0, 0], 4),
        ];
        let v4 = RANGES_V4.into_iter().map(|(address, prefix)| Self { address: address.into(), prefix });
        v4.chain(RANGES.into_iter().map(|(address, prefix)| Self { address: address.into(), prefix })).collect()
    }
}

/// The IPv4 address that an IPv6 address stands for (`::ffff:0:0/96`, and `64:ff9b::/96` of NAT64), else the same one.
fn embedded_v4(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if v6.to_bits() >> 32 == 0x0064_ff9b << 64 => Ipv4Addr::from_bits(v6.to_bits() as u32).into(),
        other => other,
    }
}

impl Scalar for IpRange {
    fn parse(value: &Value) -> Result<Self, String> {
        let parsed = value.as_str().and_then(|text| {
            let (address, prefix) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
            let address: IpAddr = address.parse().ok()?;
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let prefix = prefix.map_or(Some(bits), |prefix| prefix.parse().ok())?;
            (prefix <= bits).then_some(Self { address, prefix })
        });
        parsed.map_or_else(|| unexpected("a network such as \"192.168.0.0/16\" or \"fd00::/8\"", value), Ok)
    }

    fn print(&self) -> String {
        quote(&format!("{}/{}", self.address, self.prefix))
    }
}

/// A proxy for some hosts.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyRule {
    /// The proxy.
    pub url: ProxyUrl,
    /// The hosts it is for, with `*` as the wildcard; empty means every host.
    pub include: Vec<String>,
    /// Hosts among these that it is not for.
    pub exclude: Vec<String>,
}

impl Scalar for ProxyRule {
    fn parse(value: &Value) -> Result<Self, String> {
        let Value::Table(table) = value else {
            return unexpected(
                "a proxy such as { url = \"socks5h://localhost:9050\", include = [\"*.onion\"] }",
                value,
            );
        };
        let mut url = None::<ProxyUrl>;
        let (mut include, mut exclude) = (Vec::<String>::new(), Vec::<String>::new());
        for (key, value) in table {
            let field: &mut dyn Setting = match key.as_str() {
                "url" => &mut url,
                "include" => &mut include,
                "exclude" => &mut exclude,
                other => {
                    return Err(format!("a proxy has the keys url, include and exclude, but not {}", quote(other)));
                }
            };
            field.read(value).map_err(|reason| format!("{key}: {reason}"))?;
        }
        Ok(Self { url: url.ok_or("a proxy needs a url")?, include, exclude })
    }

    fn print(&self) -> String {
        let hosts = |hosts: &Vec<String>| hosts.write().unwrap_or_default();
        format!(
            "{{ url = {}, include = {}, exclude = {} }}",
            self.url.print(),
            hosts(&self.include),
            hosts(&self.exclude)
        )
    }
}

/// Types whose values are a few words. The words are those of the configuration file.
macro_rules! words {
    ($($(#[$meta:meta])+ pub enum $name:ident { $($(#[$doc:meta])+ $variant:ident = $word:literal,)+ } $expected:literal)+) => {$(
        $(#[$meta])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])+ $variant,)+ }

        impl Scalar for $name {
            fn parse(value: &Value) -> Result<Self, String> {
                match value.as_str() {
                    $(Some($word) => Ok(Self::$variant),)+
                    _ => unexpected($expected, value),
                }
            }

            fn print(&self) -> String {
                quote(match self { $(Self::$variant => $word,)+ })
            }
        }
    )+};
}

words! {
    /// The kind of database that an older configuration asks for. This server has RocksDB only.
    pub enum DatabaseBackend {
        /// What this server uses.
        RocksDb = "rocksdb",
        /// A single file, `conduit.db`.
        Sqlite = "sqlite",
        /// A directory, `db`.
        Sled = "sled",
    }
    "\"rocksdb\", the only database of this server"

    /// Where media are kept.
    pub enum MediaBackend {
        /// In a directory.
        Filesystem = "filesystem",
    }
    "\"filesystem\", the only media store of this server"

    /// The media that a limit is for.
    pub enum MediaScope {
        /// Uploaded by users of this server.
        Local = "local",
        /// Fetched from other servers.
        Remote = "remote",
        /// Smaller versions of either.
        Thumbnail = "thumbnail",
    }
    "\"local\", \"remote\" or \"thumbnail\""

    /// How the connection to the mail server is secured.
    pub enum MailSecurity {
        /// It becomes TLS by the command `STARTTLS`; without that, nothing is sent.
        StartTls = "starttls",
        /// It is TLS from the first byte on.
        Tls = "tls",
        /// Not at all.
        None = "none",
    }
    "\"starttls\", \"tls\" or \"none\""
}

/// A sender of mails.
impl Scalar for Mailbox {
    fn parse(value: &Value) -> Result<Self, String> {
        let parsed = value.as_str().and_then(|text| text.parse().ok());
        parsed.map_or_else(
            || unexpected("an address such as \"noreply@example.org\" or \"Example <noreply@example.org>\"", value),
            Ok,
        )
    }

    fn print(&self) -> String {
        quote(&self.to_string())
    }
}

/// When media are deleted by themselves. A medium must keep to every limit that is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// The media this is for; nothing means all that no other entry is for, and `space` then limits the total.
    pub scope: Option<MediaScope>,
    /// Time since the last access.
    pub accessed: Option<Duration>,
    /// Time since the medium came here.
    pub created: Option<Duration>,
    /// Space that these media may fill together; what was not accessed for the longest time goes first.
    pub space: Option<ByteSize>,
}

impl Scalar for Retention {
    fn parse(value: &Value) -> Result<Self, String> {
        let Value::Table(table) = value else {
            return unexpected("a limit such as { scope = \"remote\", accessed = \"30d\" }", value);
        };
        let mut retention = Self::default();
        for (key, value) in table {
            let field: &mut dyn Setting = match key.as_str() {
                "scope" => &mut retention.scope,
                "accessed" => &mut retention.accessed,
                "created" => &mut retention.created,
                "space" => &mut retention.space,
                other => {
                    return Err(format!("a limit has scope, accessed, created and space, but not {}", quote(other)));
                }
            };
            field.read(value).map_err(|reason| format!("{key}: {reason}"))?;
        }
        Ok(retention)
    }

    fn print(&self) -> String {
        let fields: [(&str, &dyn Setting); 4] =
            [("scope", &self.scope), ("accessed", &self.accessed), ("created", &self.created), ("space", &self.space)];
        let set: Vec<String> =
            fields.iter().filter_map(|(key, field)| Some(format!("{key} = {}", field.write()?))).collect();
        format!("{{ {} }}", set.join(", "))
    }
}

/// How often something may happen: a bucket of `burst` that refills by `per_second`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// How many are allowed each second for ever.
    pub per_second: f64,
    /// How many are allowed at once after a pause.
    pub burst: u32,
}

impl Scalar for RateLimit {
    fn parse(value: &Value) -> Result<Self, String> {
        let field = |key| value.as_table().filter(|table| table.len() == 2).and_then(|table| table.get(key));
        let per_second = field("per_second")
            .and_then(|value| value.as_float().or_else(|| Some(f64::from(u32::try_from(value.as_integer()?).ok()?))))
            .filter(|number| number.is_finite() && *number > 0.0);
        let burst = field("burst").and_then(|value| u32::parse(value).ok()).filter(|burst| *burst > 0);
        match (per_second, burst) {
            (Some(per_second), Some(burst)) => Ok(Self { per_second, burst }),
            _ => Err("expected two numbers above 0, as in { per_second = 0.5, burst = 10 }".to_owned()),
        }
    }

    fn print(&self) -> String {
        format!("{{ per_second = {}, burst = {} }}", self.per_second, self.burst)
    }
}

/// How the address of a client is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpAddressDetection {
    /// It is the other end of the connection.
    SocketAddress,
    /// It is in the header of this name, written by a reverse proxy.
    Header(http::HeaderName),
}

impl Scalar for IpAddressDetection {
    fn parse(value: &Value) -> Result<Self, String> {
        let header = value.as_table().filter(|table| table.len() == 1).and_then(|table| table.get("header"));
        match (value.as_str(), header.and_then(Value::as_str).map(str::parse)) {
            (Some("socket_address"), _) => Ok(Self::SocketAddress),
            (_, Some(Ok(name))) => Ok(Self::Header(name)),
            _ => unexpected("\"socket_address\" or { header = \"X-Forwarded-For\" }", value),
        }
    }

    fn print(&self) -> String {
        match self {
            Self::SocketAddress => quote("socket_address"),
            Self::Header(name) => format!("{{ header = {} }}", quote(name.as_str())),
        }
    }
}

/// The public part of an ed25519 signing key, as unpadded Base64.
impl Scalar for Base64 {
    fn parse(value: &Value) -> Result<Self, String> {
        let text = value.as_str().or_else(|| value.as_table()?.get("key")?.as_str());
        text.and_then(|text| Self::parse(text).ok())
            .filter(|key| key.as_bytes().len() == 32)
            .map_or_else(|| unexpected("a public signing key, which is 43 characters of Base64", value), Ok)
    }

    fn print(&self) -> String {
        quote(&self.encode())
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, name) in [
            ("example.org", "Example.org"),
            ("*.example.org", "a.b.example.org"),
            ("*", ""),
            ("a*b*c", "aXbYbZc"),
            ("@user-?*", "@user-1:hs"),
            ("a*aab", "aaaab"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("example.org", "example.orgs"), ("*.example.org", "example.org"), ("a?", "a"), ("a*b", "abc"), ("", "a")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
