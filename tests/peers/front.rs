//! What stands before a server, as a reverse proxy does in most homes: a port that stays the same while the server behind
//! it stops and starts, with or without TLS.

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
};

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

/// The root that signs the certificates of this run, and its key.
static AUTHORITY: LazyLock<(Certificate, Issuer<'static, KeyPair>)> = LazyLock::new(|| {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    // Without a name of its own, it would have that of the certificates it signs, which then seem to sign themselves.
    params.distinguished_name.push(DnType::CommonName, "the root of this test run");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap(), Issuer::new(params, key))
});

/// The certificate of the root, in PEM, which every server has to trust.
pub fn root() -> String {
    AUTHORITY.0.pem()
}

/// An open port of this machine and the server behind it.
pub struct Front {
    address: SocketAddr,
    behind: watch::Sender<Option<SocketAddr>>,
    accepts: AbortHandle,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

impl Front {
    /// A port without TLS, for clients.
    pub async fn plain() -> Self {
        Self::open(None).await
    }

    /// A port with TLS, for servers.
    pub async fn tls() -> Self {
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &AUTHORITY.1).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        Self::open(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn open(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (behind, watched) = watch::channel(None);
        let accepts = tokio::spawn(accept(listener, tls, watched)).abort_handle();
        Self { address, behind, accepts }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The URL of the server for clients, if this is a port without TLS.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connects new connections to the server from now on.
    pub fn lead_to(&self, behind: SocketAddr) {
        self.behind.send_replace(Some(behind));
    }

    /// Ends all connections, and new ones at once: the server is down.
    pub fn shut(&self) {
        self.behind.send_replace(None);
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, behind: watch::Receiver<Option<SocketAddr>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(connect(stream, tls.clone(), behind.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn connect(stream: TcpStream, tls: Option<TlsAcceptor>, mut behind: watch::Receiver<Option<SocketAddr>>) {
    let Some(target) = *behind.borrow_and_update() else { return };
    let relayed = async {
        match tls {
            Some(tls) => relay(tls.accept(stream).await?, target).await,
            None => relay(stream, target).await,
        }
    };
    tokio::select! {
        _ = relayed => {}
        _ = behind.changed() => {}
    }
}

async fn relay(mut front: impl AsyncRead + AsyncWrite + Unpin, behind: SocketAddr) -> std::io::Result<(u64, u64)> {
    copy_bidirectional(&mut front, &mut TcpStream::connect(behind).await?).await
}
