//! The signing keys in the database: made at the first start, read at every start.

use std::sync::Arc;

use ruma::serde::{Base64, base64::Standard};

use super::{Direction, Store, records::SigningKey, trees};
use crate::{
    clock,
    error::{Error, Result},
    signing::{self, OldKey, SigningKeys},
};

impl Store {
    /// Makes a new signing key; the one that signed until now is an old one from now on. For a server that does not run:
    /// keys are read when it starts. Gives the ID of the new key.
    ///
    /// # Errors
    /// When the system gives no random bytes, a row is damaged, or the database fails.
    pub fn rotate_signing_key(&self) -> Result<String> {
        let (version, pkcs8) = signing::generate()?;
        let pkcs8 = Base64::<Standard, _>::new(pkcs8).encode();
        self.write(|tx| {
            let now = clock::now_ms();
            let rows: Vec<_> = trees::SIGNING_KEYS.scan(tx, (), Direction::Forward).collect::<Result<_>>()?;
            for (version, key) in rows {
                let expired_ts = key.expired_ts.or(Some(now));
                trees::SIGNING_KEYS.put(tx, &version, &SigningKey { expired_ts, ..key });
            }
            trees::SIGNING_KEYS.put(tx, &version, &SigningKey { pkcs8, created_ts: now, expired_ts: None });
            Ok(())
        })?;
        Ok(format!("ed25519:{version}"))
    }

    /// The server's signing keys; the first call ever makes one.
    ///
    /// # Errors
    /// When the key's row is damaged, the system gives no random bytes, or the database fails.
    pub fn signing_keys(&self) -> Result<Arc<SigningKeys>> {
        if trees::SIGNING_KEYS.scan(&self.read(), (), Direction::Forward).next().is_none() {
            let (version, pkcs8) = signing::generate()?;
            let pkcs8 = Base64::<Standard, _>::new(pkcs8).encode();
            let key = SigningKey { pkcs8, created_ts: clock::now_ms(), expired_ts: None };
            self.write(|tx| {
                trees::SIGNING_KEYS.put(tx, &version, &key);
                Ok(())
            })?;
        }
        let snapshot = self.read();
        let server_name = trees::IDENTITY.get(&snapshot, "server_name")?.unwrap_or_default();
        let server_name =
            ruma::ServerName::parse(server_name).map_err(|_| Error::corrupt(trees::IDENTITY.name, b"server_name"))?;
        let (mut current, mut old) = (None, Vec::new());
        for row in trees::SIGNING_KEYS.scan(&snapshot, (), Direction::Forward) {
            let (version, key) = row?;
            let corrupt = || Error::corrupt(trees::SIGNING_KEYS.name, version.as_bytes());
            let pkcs8 = Base64::<Standard>::parse(&key.pkcs8).map_err(|_| corrupt())?.into_inner();
            match key.expired_ts {
                None => current = Some((version, pkcs8)),
                Some(expired_ts) => {
                    let keys = SigningKeys::new(server_name.clone(), &version, &pkcs8, Vec::new())?;
                    old.push(OldKey { id: keys.id().to_owned(), public: keys.public_key(), expired_ts });
                }
            }
        }
        let (version, pkcs8) = current.ok_or_else(|| Error::internal("no signing key is current"))?;
        Ok(Arc::new(SigningKeys::new(server_name, &version, &pkcs8, old)?))
    }
}
