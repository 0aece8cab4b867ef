//! Every option, declared once. The text of an option here is its text in `conduit-example.toml`; see
//! [`options!`](super::setting::options) for the form.
//!
//! Beside these there are the keys of other servers that mean nothing here ([`INERT`]). An option that is not needed
//! any more moves there, so that nobody's configuration stops working.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use http::HeaderName;
use lettre::message::Mailbox;
use ruma::{OwnedRoomOrAliasId, OwnedServerName, RoomVersionId, owned_server_name, serde::Base64};

use super::{
    setting::options,
    values::{
        ByteSize, DatabaseBackend, HttpUrl, IpAddressDetection, IpRange, MailSecurity, MediaBackend, MediaScope, Mode,
        ProxyRule, ProxyUrl, RateLimit, Retention, Secret, SocketUrl,
    },
};

options! {
    /// Everything an administrator can choose.
    pub struct Config {
        /// The name of this server, which is the part of `@user:example.org` after the colon. Usually it is your domain,
        /// even if the server itself runs on another host (see well_known). It cannot be changed after the first start.
        /// A configuration file must set it.
        server_name: OwnedServerName = owned_server_name!("localhost");

        /// The directory for the database, and for media unless media.path is set. A configuration file must set it.
        database_path: PathBuf = PathBuf::from("./data");

        /// The kind of database. There is one, "rocksdb". The value "sqlite" of older configurations is accepted too, as
        /// long as no SQLite database lies in database_path.
        database_backend: DatabaseBackend = DatabaseBackend::RocksDb;

        /// The IP addresses to listen on: one or a list. Behind a reverse proxy, the loopback addresses are enough.
        /// With an empty list, there is only the unix socket. If systemd passes sockets, they are used instead of all this.
        address: Vec<IpAddr> = vec![[127, 0, 0, 1].into(), [0, 0, 0, 0, 0, 0, 0, 1].into()];

        /// The ports to listen on, at each address: one or a list. Port 0 takes any free one.
        port: Vec<u16> = vec![6167];

        /// A unix socket to listen on as well.
        unix_socket_path: Option<PathBuf> = None, example r#""/run/conduit/conduit.sock""#;

        /// The permissions of the unix socket, as for chmod.
        unix_socket_perms: Mode = Mode(0o660);

        /// How the address of a client is found, for rate limits and the list of devices: in a header that the reverse
        /// proxy writes, or as the other end of the connection, "socket_address". The header is believed only on a
        /// connection from this machine or from a private network.
        ip_address_detection: IpAddressDetection =
            IpAddressDetection::Header(HeaderName::from_static("x-forwarded-for"));

        /// What to log: error, warn, info, debug or trace, also for parts of the server, as in "warn,conduit=debug".
        log: String = "warn,conduit=info".to_owned();

        /// How much memory the database and all caches may use together. By default a quarter of the memory that this
        /// process may have, but at least 64MiB and at most 1GiB.
        memory_budget: Option<ByteSize> = None, example r#""256MB""#;

        /// The largest request, in bytes or as "20MB". The reverse proxy must allow as much.
        max_request_size: ByteSize = ByteSize::mib(20);

        /// The largest file that can be uploaded. By default the same as max_request_size.
        max_upload_size: Option<ByteSize> = None, example r#""100MB""#;

        /// Whether people can register accounts by themselves. They need the registration_token or a token made by an
        /// administrator, unless allow_open_registration_without_token is set as well.
        allow_registration: bool = false;

        /// A token that people need to register. Give it to those you know.
        registration_token: Option<Secret> = None, example r#""a text that is hard to guess""#;

        /// Lets everybody on the internet register, if allow_registration is set and registration_token is not. Robots
        /// find such servers within days and use them to send spam in your name; see also rate_limits.
        allow_open_registration_without_token: bool = false;

        /// Whether guests can look into rooms that allow it, without an account.
        allow_guest_registration: bool = false;

        /// A secret with which tools can register accounts at /_synapse/admin/v1/register.
        registration_shared_secret: Option<Secret> = None, example r#""a text that is hard to guess""#;

        /// A password for the account @conduit of this server, for an administrator who is locked out. Remove it afterwards.
        emergency_password: Option<Secret> = None, example r#""a text that is hard to guess""#;

        /// Whether there is a room in which administrators give the server commands and hear what users report. It is
        /// made, and administrators are invited into it, by the user @conduit of this server.
        admin_room: bool = true;

        /// A secret shared with a service whose JSON Web Tokens (HS256) can be used to log in.
        jwt_secret: Option<Secret> = None, example r#""a text that is hard to guess""#;

        /// The least number of characters of a new password.
        password_min_length: u32 = 8;

        /// How long an access token is valid, if the client can renew it with a refresh token.
        access_token_ttl: Duration = Duration::from_secs(3_600);

        /// How long a refresh token is valid after its last use. By default for ever.
        refresh_token_ttl: Option<Duration> = None, example r#""90d""#;

        /// How long a token is valid with which a user proves to another service who they are (OpenID).
        openid_token_ttl: Duration = Duration::from_secs(3_600);

        /// Rooms that new users are brought into, by alias or ID, as in ["#welcome:example.org"]. A room of this server that is not public must let the user
        /// @conduit invite.
        auto_join_rooms: Vec<OwnedRoomOrAliasId> = Vec::new();

        /// Whether there is a room for questions to the administrators, which new users are brought into. The user @conduit
        /// of this server makes it as #support.
        support_room: bool = false;

        /// Whether rooms can be encrypted.
        allow_encryption: bool = true;

        /// Whether users can create rooms. Administrators always can.
        allow_room_creation: bool = true;

        /// How long a room that the last user of this server left is kept, for those who want to read in it what was said
        /// while they were there; a day, if all of them forgot it. Set it to "" to keep such rooms for ever.
        left_rooms_kept: Option<Duration> = Some(Duration::from_secs(30 * 86_400));

        /// The version of new rooms, "1" to "12".
        default_room_version: RoomVersionId = RoomVersionId::V12;

        /// Whether the list of public rooms can be read without an account.
        allow_public_room_directory_without_auth: bool = true;

        /// Whether other servers can read the list of public rooms.
        allow_public_room_directory_over_federation: bool = true;

        /// Whether profiles (names, pictures and what else users enter there) can be looked up without an account.
        allow_profile_lookup_without_auth: bool = true;

        /// Whether users can look up the profiles of those only with whom they share a room. Nobody can without an account
        /// then. Consider user_directory_all_users as well.
        profile_lookup_in_shared_rooms_only: bool = false;

        /// Whether other servers can look up profiles. Without it, users of other servers see the names and pictures of those
        /// only with whom they share a room or who invite them.
        allow_profile_lookup_over_federation: bool = true;

        /// Whether users see who is online of those they share a room with.
        allow_presence: bool = true;

        /// Whether other servers are told who of this server's users is online. This costs a request to every server that
        /// they share rooms with at every change.
        allow_outgoing_presence: bool = false;

        /// Whether users find all users of this server in the directory, not only those they share a room with or who are
        /// in public rooms.
        user_directory_all_users: bool = true;

        /// Whether new users get a lightning bolt after their display name.
        enable_lightning_bolt: bool = false;

        /// Files with the registrations of application services such as bridges, or folders with such files (.yaml).
        appservice_registrations: Vec<PathBuf> = Vec::new(), example r#"["/etc/conduit/bridges"]"#;

        /// Whether to exchange messages with other servers.
        allow_federation: bool = true;

        /// Whether other servers are told what users call their devices ("Anna's work laptop"). The names help others to
        /// tell somebody's devices apart, and say more than some would like.
        allow_device_name_federation: bool = false;

        /// Servers that are asked for the signing keys of servers that cannot be reached.
        trusted_servers: Vec<OwnedServerName> = vec![owned_server_name!("matrix.org")];

        /// Public signing keys of servers that are never accepted, because their private part was stolen. The default
        /// is one that many servers shared by mistake.
        ignored_keys: Vec<Base64> = Base64::parse("l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og").into_iter().collect();

        /// The servers that messages are exchanged with: names, with "*" for any part, as in "*.example.org". An empty list
        /// means all.
        allowed_servers: Vec<String> = Vec::new();

        /// Servers that no messages are exchanged with, in the same form.
        denied_servers: Vec<String> = Vec::new();

        /// Certificates of authorities, in PEM, that are trusted beside those of the system: for a private network whose
        /// servers have certificates of its own authority.
        ca_certificates: Vec<PathBuf> = Vec::new();

        /// Networks that nothing is fetched from: no server, picture, page or push service there is reached. The default is
        /// what is not part of the public internet, so that nobody can use this server to look into your network. A proxy
        /// that resolves names itself (socks5h, http) must see to it for names.
        ip_range_denylist: Vec<IpRange> = IpRange::private();

        /// Networks, or single addresses, that are reached all the same, such as "192.168.1.0/24" for servers at home.
        ip_range_allowlist: Vec<IpRange> = Vec::new();

        /// How many requests to other servers run at the same time, a quarter of them to one server at most.
        max_concurrent_requests: u16 = 100;

        /// Whether users can have people found and invited by their e-mail address. The identity server that their client
        /// names is then asked by this server.
        allow_identity_servers: bool = true;

        /// Where clients and other servers find this server. It answers at https://<server_name>/.well-known/matrix/ itself
        /// if the reverse proxy passes that on.
        well_known: WellKnown = WellKnown::default();

        /// A certificate, if there is no reverse proxy that has one. The files are read again when they change.
        tls: Tls = Tls::default();

        /// An identity provider (OpenID Connect) such as Authelia, Authentik, Keycloak or kanidm, with which people log in
        /// instead of a password. Set issuer and client_id. The address that the provider sends people back to is
        /// <well_known.client>/_matrix/conduit/sso/callback.
        sso: Sso = Sso::default();

        /// A mail server. With one, users can prove that an e-mail address is theirs, log in with it, and set a new password when
        /// they forgot theirs.
        email: Email = Email::default();

        /// A TURN server, which voice and video calls need when both sides are behind a router. Set uris and either secret,
        /// or username and password.
        turn: Turn = Turn::default();

        /// Words of the administrators to single users, in a room that each has for it.
        server_notices: ServerNotices = ServerNotices::default();

        /// Group calls (MatrixRTC), which need a LiveKit server. This server gives people in a room the tokens for it itself:
        /// set livekit_url, key and secret.
        matrix_rtc: MatrixRtc = MatrixRtc::default();

        /// How long the content of redacted messages is kept, for moderators to look at. With 0 it is gone at once.
        redaction_retention: Duration = Duration::ZERO;

        /// Events that clients have sent later, which calls need.
        delayed_events: DelayedEvents = DelayedEvents::default();

        /// Files that users send.
        media: Media = Media::default();

        /// Pictures and titles of web pages that users post. Each page that is posted in an unencrypted room is then fetched
        /// by this server, which tells the page its address.
        url_preview: UrlPreview = UrlPreview::default();

        /// How often things may be done. A burst is what is allowed at once after a pause.
        rate_limits: RateLimits = RateLimits::default();

        /// Figures about the server for Prometheus and its kin.
        metrics: Metrics = Metrics::default();

        /// Proxies for requests to other servers: one for all, or some by domain.
        proxy: Proxy = Proxy::default();
    }

    /// `[well_known]`
    pub struct WellKnown {
        /// The address that clients connect to. By default https://<server_name>.
        client: Option<HttpUrl> = None, example r#""https://matrix.example.org""#;

        /// The host and port that other servers connect to. By default port 443 of server_name.
        server: Option<OwnedServerName> = None, example r#""matrix.example.org:443""#;

        /// Whom users can ask for help.
        support: Support = Support::default();
    }

    /// `[well_known.support]`
    pub struct Support {
        /// A page with help.
        page: Option<HttpUrl> = None, example r#""https://example.org/help""#;

        /// What the contact is for: "m.role.admin" or "m.role.security".
        role: String = "m.role.admin".to_owned();

        /// The mail address of the contact.
        email: Option<String> = None, example r#""admin@example.org""#;

        /// The Matrix account of the contact.
        mxid: Option<String> = None, example r#""@admin:example.org""#;
    }

    /// `[tls]`
    pub struct Tls {
        /// The certificate and those that it depends on, in PEM.
        certs: Option<PathBuf> = None, example r#""/path/to/fullchain.pem""#;

        /// Its private key, in PEM.
        key: Option<PathBuf> = None, example r#""/path/to/privkey.pem""#;
    }

    /// `[sso]`
    pub struct Sso {
        /// The provider's address, below which it publishes .well-known/openid-configuration.
        issuer: Option<HttpUrl> = None, example r#""https://id.example.org""#;

        /// By what the provider knows this server.
        client_id: Option<String> = None, example r#""matrix""#;

        /// The password of this server at the provider, if it has one.
        client_secret: Option<Secret> = None, example r#""a text that is hard to guess""#;

        /// What the button in clients says.
        name: String = "Single sign-on".to_owned();

        /// What the provider is asked for.
        scopes: Vec<String> = ["openid", "profile"].map(str::to_owned).to_vec();

        /// What user names are made of, among what the provider says of a person. Where that is missing or taken, the
        /// person chooses a name.
        localpart_claim: String = "preferred_username".to_owned();

        /// Whether people get an account when they log in for the first time. Otherwise only those whom an administrator
        /// linked with their account can log in this way ("users link" in the administration room).
        register: bool = true;

        /// Whether people also get into an account that was there before, if it is called exactly as they are at the
        /// provider (but for capitals) and nobody else from there gets into it. Set this only if nobody can choose or
        /// change their name at the provider.
        link_existing: bool = false;
    }

    /// `[email]`
    pub struct Email {
        /// The host of the mail server that mails are handed to. Without it, no mails are sent.
        host: Option<String> = None, example r#""mail.example.org""#;

        /// Its port. By default 587, or 465 where security is "tls", or 25 where it is "none".
        port: Option<u16> = None, example r#"587"#;

        /// How the connection is secured: "starttls", "tls" (from the first byte on), or "none", which is for a mail server on
        /// this machine.
        security: MailSecurity = MailSecurity::StartTls;

        /// The name of the account at the mail server, if it wants one.
        username: Option<String> = None, example r#""matrix@example.org""#;

        /// The password of that account.
        password: Option<Secret> = None, example r#""a text that is hard to guess""#;

        /// The sender of the mails, with a name or without. It must be set if host is.
        from: Option<Mailbox> = None, example r#""Example <noreply@example.org>""#;

        /// Whether people need an e-mail address to register.
        required_to_register: bool = false;

        /// Whether whoever asks is told at once if an e-mail address belongs to an account here. By default that is said in a
        /// mail to the address only, so that nobody else finds out who has an account.
        tell_known_addresses: bool = false;
    }

    /// `[turn]`
    pub struct Turn {
        /// The addresses of the TURN server, such as "turn:turn.example.org?transport=udp".
        uris: Vec<String> = Vec::new();

        /// The secret shared with the TURN server (use-auth-secret in coturn). Users get passwords derived from it.
        secret: Option<Secret> = None, example r#""a text that is hard to guess""#;

        /// How long such a password is valid.
        ttl: Duration = Duration::from_secs(86_400);

        /// The name of a fixed account at the TURN server, instead of the secret.
        username: Option<String> = None, example r#""matrix""#;

        /// The password of that account. Every user gets to know it.
        password: Option<Secret> = None, example r#""a text that is hard to guess""#;
    }

    /// `[server_notices]`
    pub struct ServerNotices {
        /// Whether administrators can send them.
        enabled: bool = false;

        /// Which user of this server they come from: a name that nobody registered.
        user: String = "conduit".to_owned();

        /// The display name of that user, if it is new.
        name: String = "Server".to_owned();

        /// The name of the rooms.
        room_name: String = "Server notices".to_owned();
    }

    /// `[matrix_rtc]`
    pub struct MatrixRtc {
        /// The address at which clients connect to the LiveKit server.
        livekit_url: Option<SocketUrl> = None, example r#""wss://livekit.example.org""#;

        /// The name of a key of the LiveKit server (under keys in its configuration).
        key: Option<String> = None, example r#""conduit""#;

        /// The secret of that key.
        secret: Option<Secret> = None, example r#""a text that is hard to guess""#;

        /// The address at which this server reaches the LiveKit server, if it is another than for clients.
        livekit_api_url: Option<HttpUrl> = None, example r#""http://127.0.0.1:7880""#;

        /// The address of a token service (lk-jwt-service), if there is one that is to be used instead of this server.
        service_url: Option<HttpUrl> = None, example r#""https://livekit-jwt.example.org""#;
    }

    /// `[delayed_events]`
    pub struct DelayedEvents {
        /// How much later an event can be sent. With 0 there are no delayed events.
        max_delay: Duration = Duration::from_secs(86_400);

        /// How many events of one user can wait at a time.
        max_per_user: u32 = 100;
    }

    /// `[media]`
    pub struct Media {
        /// Where media are kept. There is one way, "filesystem".
        backend: MediaBackend = MediaBackend::Filesystem;

        /// The directory for media. By default the directory media in database_path.
        path: Option<PathBuf> = None, example r#""/srv/matrix-media""#;

        /// When media are deleted by themselves. A scope is "local" (sent by users of this server), "remote" or
        /// "thumbnail". Limits are accessed and created, the time since then, and space, for all media of the scope
        /// together. An entry without scope is for the scopes that have none, and its space is the total of all. Avatars of
        /// users and rooms of this server stay.
        retention: Vec<Retention> = [MediaScope::Remote, MediaScope::Thumbnail].map(unused_for_30_days).to_vec();
    }

    /// `[url_preview]`
    pub struct UrlPreview {
        /// Whether there are previews.
        enabled: bool = false;

        /// The domains that previews are made of, with their subdomains. An empty list means all. Addresses in private
        /// networks are never fetched.
        allow_domains: Vec<String> = Vec::new();

        /// The domains that previews are not made of, with their subdomains.
        deny_domains: Vec<String> = Vec::new();

        /// How much of a page or picture is read at most.
        max_size: ByteSize = ByteSize::mib(5);
    }

    /// `[rate_limits]`
    pub struct RateLimits {
        /// Whether there are limits. "rate_limits = false" is short for this.
        enabled: bool = true;

        /// Logging in and changing passwords, for each address and each account.
        login: RateLimit = RateLimit { per_second: 0.2, burst: 20 };

        /// Registering and trying registration tokens, for each address.
        registration: RateLimit = RateLimit { per_second: 0.1, burst: 10 };

        /// How many accounts can be registered in a day from one address (of IPv6, from one network), in a client, on the
        /// page or by logging in with the identity provider. Guests are counted apart; registrations with a token that is
        /// good for a number of accounts are not counted, here and below.
        accounts_per_address: u32 = 10;

        /// How many accounts can be registered in a day altogether.
        accounts_per_day: u32 = 100;

        /// After how many registrations without a token in an hour registration closes by itself. Administrators are told,
        /// and can open it again.
        open_registrations_per_hour: u32 = 20;

        /// Having mails sent, for each address that asks and each one that mails go to.
        mail: RateLimit = RateLimit { per_second: 0.002, burst: 5 };

        /// Sending events into rooms, for each user.
        send: RateLimit = RateLimit { per_second: 10.0, burst: 100 };

        /// Joining, knocking and inviting, for each user.
        join: RateLimit = RateLimit { per_second: 1.0, burst: 30 };

        /// Everything else that the Matrix specification calls rate-limited, for each user.
        other: RateLimit = RateLimit { per_second: 20.0, burst: 200 };
    }

    /// `[metrics]`
    pub struct Metrics {
        /// The address and port at which they can be had, below /metrics. Whoever can connect to it can read them, so that it is
        /// best one of this machine or of a network of your own.
        address: Option<SocketAddr> = None, example r#""127.0.0.1:9168""#;
    }

    /// `[proxy]`
    pub struct Proxy {
        /// Proxies for some domains, such as { url = "socks5h://localhost:9050", include = ["*.onion"], exclude = [] }. The
        /// first that includes and does not exclude a domain is used.
        by_domain: Vec<ProxyRule> = Vec::new();

        /// One proxy for all requests.
        global: ProxyForAll = ProxyForAll::default();
    }

    /// `[proxy.global]`
    pub struct ProxyForAll {
        /// Its address.
        url: Option<ProxyUrl> = None, example r#""socks5h://localhost:9050""#;
    }
}

/// The limit of each scope of which nothing is configured, except local media, which are never deleted.
pub(crate) fn unused_for_30_days(scope: MediaScope) -> Retention {
    Retention { scope: Some(scope), accessed: Some(Duration::from_secs(30 * 86_400)), ..Retention::default() }
}

/// The options, and tables of options, that take effect with the next start: all others do when the configuration is read
/// again while the server runs.
pub(crate) const RESTART: [&str; 17] = [
    "server_name",
    "database_path",
    "database_backend",
    "address",
    "port",
    "unix_socket_path",
    "unix_socket_perms",
    "memory_budget",
    "admin_room",
    "allow_presence",
    "allow_outgoing_presence",
    "max_concurrent_requests",
    "metrics",
    "tls",
    "redaction_retention",
    "media.backend",
    "media.path",
];

/// A key of another configuration that means nothing here.
pub(crate) struct Inert {
    /// The key, with its table.
    pub(crate) key: &'static str,
    /// The value with which it asks for nothing, so that no word need be lost about it.
    pub(crate) harmless: Option<bool>,
    /// Why it has no effect.
    pub(crate) why: &'static str,
}

const fn inert(key: &'static str, harmless: Option<bool>, why: &'static str) -> Inert {
    Inert { key, harmless, why }
}

/// The keys that mean nothing here.
pub(crate) const INERT: [Inert; 21] = [
    inert("conduit_cache_capacity_modifier", None, "memory_budget sizes all caches"),
    inert("cache_capacity_modifier", None, "memory_budget sizes all caches"),
    inert("cache_capacity", None, "memory_budget sizes all caches"),
    inert("db_cache_capacity_mb", None, "memory_budget sizes all caches"),
    inert("pdu_cache_capacity", None, "memory_budget sizes all caches"),
    inert("rocksdb_max_open_files", None, "the database opens as many files as it needs"),
    inert(
        "max_fetch_prev_events",
        None,
        "as many missing events are fetched as are needed, within limits of this server",
    ),
    inert("cleanup_second_interval", None, "the database cleans up by itself"),
    inert("allow_unstable_room_versions", Some(false), "this server has the stable room versions only"),
    inert("allow_check_for_updates", Some(false), "this server never asks for updates"),
    inert("allow_jaeger", Some(false), "traces are not sent anywhere"),
    inert("tracing_flame", Some(false), "there is no flame graph"),
    inert("rate_limiting", None, "see rate_limits for the limits of this server"),
    inert("media.directory_structure", None, "the layout of the media directory is fixed"),
    inert("media.endpoint", None, "media are kept in a directory"),
    inert("media.bucket", None, "media are kept in a directory"),
    inert("media.region", None, "media are kept in a directory"),
    inert("media.key", None, "media are kept in a directory"),
    inert("media.secret", None, "media are kept in a directory"),
    inert("media.duration", None, "media are kept in a directory"),
    inert("media.bucket_use_path", None, "media are kept in a directory"),
];
