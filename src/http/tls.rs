//! TLS for the listening sockets: certificate and key from PEM files, followed when they change.
//!
//! The cryptography is ring's, named here rather than taken from the process-wide default, which another library may
//! have set. A renewed certificate is picked up within a minute; a broken one is refused with a warning while the old
//! one stays in use, because a server with an old certificate is better than none.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::RwLock;
use rustls::{
    ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tracing::{info, warn};

use crate::error::{Error, Result};

/// How often the files are looked at.
pub(super) const RELOAD_INTERVAL: Duration = Duration::from_secs(60);

/// Where certificate and key are.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate and its chain, as PEM.
    pub certs: PathBuf,
    /// The private key, as PEM.
    pub key: PathBuf,
}

/// The current certificate, and how to get the next.
pub struct Tls {
    files: TlsFiles,
    current: RwLock<Certificate>,
}

/// A certificate with its key, ready for use, and when the files were written.
#[derive(Debug)]
pub struct Certificate {
    config: Arc<ServerConfig>,
    modified: Modified,
}

type Modified = [Option<SystemTime>; 2];

impl Tls {
    /// Loads the files.
    ///
    /// # Errors
    /// When a file cannot be read, or they do not fit together.
    pub(super) fn load(files: TlsFiles) -> Result<Self> {
        let current = RwLock::new(load(&files)?);
        Ok(Self { files, current })
    }

    /// What the next handshake uses.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().config)
    }

    /// Loads the files again; [`set`](Self::set) puts them to use.
    ///
    /// # Errors
    /// As at the start.
    pub fn load_again(&self) -> Result<Certificate> {
        load(&self.files)
    }

    /// Uses another certificate for the next handshakes.
    pub fn set(&self, certificate: Certificate) {
        *self.current.write() = certificate;
    }

    /// Loads the files again if one of them changed since the last look.
    pub(super) fn follow(&self) {
        let modified = modified(&self.files);
        if modified == self.current.read().modified {
            return;
        }
        match self.load_again() {
            Ok(certificate) => {
                self.set(certificate);
                info!(certs = %self.files.certs.display(), "the TLS certificate was renewed");
            }
            Err(error) => {
                self.current.write().modified = modified;
                warn!(%error, "the changed TLS certificate is not usable; the old one stays");
            }
        }
    }
}

fn modified(files: &TlsFiles) -> Modified {
    [&files.certs, &files.key].map(|path| path.metadata().and_then(|metadata| metadata.modified()).ok())
}

fn load(files: &TlsFiles) -> Result<Certificate> {
    let modified = modified(files);
    let certs = CertificateDer::pem_file_iter(&files.certs)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(&files.certs, error))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unusable(&files.key, error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Error::internal)?
        .with_no_client_auth()
        .with_single_cert(certs, key)
        .map_err(|error| unusable(&files.certs, error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Certificate { config: Arc::new(config), modified })
}

fn unusable(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::internal(format_args!("TLS: {} is not usable: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn follows_its_files_but_keeps_what_works() {
        let folder = tempfile::tempdir().unwrap();
        let files = TlsFiles { certs: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
        let good = [include_str!("../../tests/tls/cert.pem"), include_str!("../../tests/tls/key.pem")];
        let write = |[cert, key]: [&str; 2], second: u64| {
            for (path, text) in [(&files.certs, cert), (&files.key, key)] {
                fs::write(path, text).unwrap();
                let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
                fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
            }
        };
        write(good, 1);
        let tls = Tls::load(files.clone()).unwrap();
        let first = tls.current();
        tls.follow();
        assert!(Arc::ptr_eq(&first, &tls.current()), "nothing changed");
        write([good[1], "broken"], 2);
        tls.follow();
        assert!(Arc::ptr_eq(&first, &tls.current()), "a broken file changes nothing");
        write(good, 3);
        tls.follow();
        assert!(!Arc::ptr_eq(&first, &tls.current()));
    }
}
