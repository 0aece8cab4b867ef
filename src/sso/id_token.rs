//! The signed statement of a provider about who somebody is
//! ([OpenID Connect Core 1.0, ID Token](https://openid.net/specs/openid-connect-core-1_0.html#IDToken)).
//!
//! Deliberately absent: encrypted tokens, and signatures with the client's secret (`HS256`) or none.

use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use ruma::serde::{Base64, base64::UrlSafe};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::clock;

/// How far the provider's clock may be wrong, in seconds.
const SKEW: u64 = 60;

/// What a provider says of somebody, by names.
pub(super) type Claims = Map<String, Value>;

/// What a token must say to be good.
pub(super) struct Wanted<'a> {
    pub(super) issuer: &'a str,
    pub(super) client: &'a str,
    pub(super) nonce: &'a str,
}

/// What is wrong with a token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is signed with a key that is not known: newer keys may help.
    UnknownKey,
    /// Something that nothing can help.
    Token(&'static str),
}

impl Wrong {
    /// In words.
    pub(super) fn why(&self) -> &'static str {
        match self {
            Self::UnknownKey => "its statement is signed with a key that it does not publish",
            Self::Token(why) => why,
        }
    }
}

/// The keys that a provider signs with (RFC 7517).
#[derive(Clone, Deserialize)]
pub(super) struct Keys {
    keys: Vec<Key>,
}

#[derive(Clone, Deserialize)]
struct Key {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
}

impl Keys {
    /// The claims of a token that is signed with one of these keys and says what is wanted.
    pub(super) fn verify(&self, token: &str, wanted: &Wanted<'_>) -> Result<Claims, Wrong> {
        let no_token = || Wrong::Token("its statement is not a signed token");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(no_token)?;
        let (header, claims) = signed.split_once('.').ok_or_else(no_token)?;
        let header: Header = serde_json::from_slice(&decode(header).ok_or_else(no_token)?).map_err(|_| no_token())?;
        let signature = decode(signature).ok_or_else(no_token)?;
        let fitting = |key: &&Key| {
            let named = header.kid.is_none() || key.kid.is_none() || key.kid == header.kid;
            named
                && key.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
                && key.alg.as_deref().is_none_or(|alg| alg == header.alg)
        };
        let mut keys = self.keys.iter().filter(fitting).peekable();
        keys.peek().ok_or(Wrong::UnknownKey)?;
        if !keys.any(|key| key.has_signed(&header.alg, signed.as_bytes(), &signature).is_some()) {
            // Keys without names may be others than they were.
            return Err(if header.kid.is_none() { Wrong::UnknownKey } else { Wrong::Token("its signature is wrong") });
        }
        let claims = decode(claims).and_then(|claims| serde_json::from_slice(&claims).ok()).ok_or_else(no_token)?;
        check(&claims, wanted).map_err(Wrong::Token)?;
        Ok(claims)
    }
}

/// Core 3.1.3.7: what must be looked at.
fn check(claims: &Claims, wanted: &Wanted<'_>) -> Result<(), &'static str> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let is_for_us = match claims.get("aud") {
        Some(Value::String(one)) => one == wanted.client,
        // A statement that others can show as well must say that it was made for this client.
        Some(Value::Array(many)) => {
            many.iter().any(|one| one == wanted.client)
                && (many.len() == 1 || text("azp").is_some_and(|one| one == wanted.client))
        }
        _ => false,
    };
    let now = clock::now_ms() / 1000;
    let seconds = |name: &str| claims.get(name).and_then(Value::as_f64).map(|time| time as u64);
    match () {
        () if text("iss") != Some(wanted.issuer) => Err("its statement is somebody else's"),
        () if !is_for_us => Err("its statement is for somebody else"),
        () if text("nonce") != Some(wanted.nonce) => Err("its statement is for another login"),
        () if seconds("exp").is_none_or(|end| end + SKEW <= now) => Err("its statement has expired"),
        () if seconds("nbf").is_some_and(|start| start > now + SKEW) => Err("its statement is not valid yet"),
        () => Ok(()),
    }
}

impl Key {
    fn has_signed(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> Option<()> {
        let rsa = |parameters: &RsaParameters| {
            let (n, e) = (self.n.as_deref().and_then(decode)?, self.e.as_deref().and_then(decode)?);
            (self.kty == "RSA").then_some(())?;
            RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).ok()
        };
        let other = |kind: &str, curve: &str, how: &'static dyn VerificationAlgorithm, key: Vec<u8>| {
            (self.kty == kind && self.crv.as_deref() == Some(curve)).then_some(())?;
            UnparsedPublicKey::new(how, key).verify(message, signature).ok()
        };
        match algorithm {
            "RS256" => rsa(&RSA_PKCS1_2048_8192_SHA256),
            "RS384" => rsa(&RSA_PKCS1_2048_8192_SHA384),
            "RS512" => rsa(&RSA_PKCS1_2048_8192_SHA512),
            "PS256" => rsa(&RSA_PSS_2048_8192_SHA256),
            "PS384" => rsa(&RSA_PSS_2048_8192_SHA384),
            "PS512" => rsa(&RSA_PSS_2048_8192_SHA512),
            "ES256" => other("EC", "P-256", &ECDSA_P256_SHA256_FIXED, self.point()?),
            "ES384" => other("EC", "P-384", &ECDSA_P384_SHA384_FIXED, self.point()?),
            "EdDSA" => other("OKP", "Ed25519", &ED25519, self.x.as_deref().and_then(decode)?),
            _ => None,
        }
    }

    /// The uncompressed point of an elliptic curve (SEC 1).
    fn point(&self) -> Option<Vec<u8>> {
        let (x, y) = (self.x.as_deref().and_then(decode)?, self.y.as_deref().and_then(decode)?);
        Some([&[4][..], &x, &y].concat())
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    Base64::<UrlSafe>::parse(text).ok().map(Base64::into_inner)
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
    };
    use serde_json::json;

    use super::*;

    fn encode(bytes: &[u8]) -> String {
        Base64::<UrlSafe, _>::new(bytes).encode()
    }

    struct Signer(EcdsaKeyPair);

    impl Signer {
        fn new() -> Self {
            let random = SystemRandom::new();
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap())
        }

        fn keys(&self, kid: &str) -> Keys {
            let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
            let key = json!({ "kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "x": encode(x), "y": encode(y) });
            serde_json::from_value(json!({ "keys": [key] })).unwrap()
        }

        fn token(&self, header: Value, claims: &Value) -> String {
            let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
            let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
            format!("{signed}.{}", encode(signature.as_ref()))
        }
    }

    const WANTED: Wanted<'_> = Wanted { issuer: "https://id.example", client: "matrix", nonce: "n" };

    fn claims() -> Value {
        let expires = clock::now_ms() / 1000 + 300;
        json!({ "iss": "https://id.example", "aud": "matrix", "nonce": "n", "exp": expires, "sub": "1" })
    }

    #[test]
    fn a_statement_is_believed_only_if_all_of_it_is_right() {
        let signer = Signer::new();
        let header = json!({ "alg": "ES256", "kid": "k" });
        let verify = |claims: &Value| signer.keys("k").verify(&signer.token(header.clone(), claims), &WANTED);
        assert_eq!(verify(&claims()).unwrap()["sub"], "1");
        let wrong = [
            ("iss", json!("https://other.example")),
            ("aud", json!("other")),
            ("aud", json!(["matrix", "other"])),
            ("nonce", json!("other")),
            ("nonce", Value::Null),
            ("exp", json!(1_000_000)),
            ("exp", Value::Null),
            ("nbf", json!(clock::now_ms())),
        ];
        for (name, value) in wrong {
            let mut claims = claims();
            claims[name] = value;
            assert!(matches!(verify(&claims), Err(Wrong::Token(_))), "{claims}");
        }
        let mut shared = claims();
        (shared["aud"], shared["azp"]) = (json!(["matrix", "other"]), json!("matrix"));
        assert!(verify(&shared).is_ok());
    }

    #[test]
    fn a_signature_must_be_of_a_known_key() {
        let (signer, other) = (Signer::new(), Signer::new());
        let token = signer.token(json!({ "alg": "ES256", "kid": "k" }), &claims());
        assert_eq!(signer.keys("newer").verify(&token, &WANTED), Err(Wrong::UnknownKey));
        assert!(matches!(other.keys("k").verify(&token, &WANTED), Err(Wrong::Token(_))));
        let (signed, _) = token.rsplit_once('.').unwrap();
        for forged in [format!("{signed}."), signed.to_owned(), String::new(), "a.b.c".to_owned()] {
            assert!(signer.keys("k").verify(&forged, &WANTED).is_err());
        }
        for algorithm in ["none", "HS256", "RS256"] {
            let token = signer.token(json!({ "alg": algorithm, "kid": "k" }), &claims());
            assert!(signer.keys("k").verify(&token, &WANTED).is_err());
        }
    }
}
