//! The server's own signing keys.
//!
//! One ed25519 key signs everything that leaves in the server's name: events, requests, key documents. It is made at
//! the first start and kept in the database (`store/signing_keys.rs`); keys of earlier times are kept so that old
//! signatures can still be verified, and sign nothing.

use ruma::{
    CanonicalJsonObject, OwnedServerName, ServerName,
    serde::Base64,
    signatures::{Ed25519KeyPair, KeyPair, sign_json},
};

use crate::{
    clock,
    error::{Error, Result},
};

/// A key that signed once.
#[derive(Clone, Debug)]
pub struct OldKey {
    /// Its ID, such as `ed25519:aB3x`.
    pub id: String,
    /// The public key in unpadded base64.
    pub public: String,
    /// When it stopped signing, in milliseconds since the Unix epoch.
    pub expired_ts: u64,
}

/// The key that signs, and those that did.
pub struct SigningKeys {
    server_name: OwnedServerName,
    current: Ed25519KeyPair,
    id: String,
    old: Vec<OldKey>,
}

/// A new secret key: its version (the part of the key ID after the colon) and its PKCS#8 document.
///
/// # Errors
/// When the system gives no random bytes.
pub fn generate() -> Result<(String, Vec<u8>)> {
    Ok((clock::random_string(6)?, Ed25519KeyPair::generate().to_vec()))
}

impl SigningKeys {
    /// The keys of `server_name`: the one that signs by its version and PKCS#8 document, and the old ones.
    ///
    /// # Errors
    /// When the document holds no ed25519 key.
    pub fn new(server_name: OwnedServerName, version: &str, pkcs8: &[u8], old: Vec<OldKey>) -> Result<Self> {
        let current = Ed25519KeyPair::from_der(pkcs8, version.to_owned())
            .map_err(|error| Error::internal(format_args!("the server's signing key is damaged: {error}")))?;
        Ok(Self { server_name, current, id: format!("ed25519:{version}"), old })
    }

    /// The server whose keys they are.
    pub fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// The ID of the key that signs, such as `ed25519:aB3x`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public half of the key that signs, in unpadded base64.
    pub fn public_key(&self) -> String {
        Base64::<ruma::serde::base64::Standard, _>::new(self.current.public_key().to_vec()).encode()
    }

    /// The keys that signed once.
    pub fn old(&self) -> &[OldKey] {
        &self.old
    }

    /// The signature of `message`, in unpadded base64.
    pub fn sign(&self, message: &[u8]) -> String {
        self.current.sign(message).base64()
    }

    /// Adds the server's signature to a JSON object
    /// ([Signing JSON](https://spec.matrix.org/latest/appendices/#signing-json)).
    ///
    /// # Errors
    /// When `signatures` is there and not an object of objects.
    pub fn sign_json(&self, object: &mut CanonicalJsonObject) -> Result<()> {
        sign_json(self.server_name.as_str(), &self.current, object)
            .map_err(|error| Error::bad_json(format!("The object cannot be signed: {error}.")))
    }
}
