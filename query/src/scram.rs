//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side: what is kept of a password, and the exchange that checks it.
//!
//! Promise: what is kept does not let anyone log in; a user who is not known is answered like one whose password is
//! wrong. Called by the gateway when a password is set, and by the Postgres wire at each login.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use pgwire::api::auth::sasl::scram::gen_salted_password;
use sha2::{Digest, Sha256};

/// Rounds of hashing for a password that is set now. PostgreSQL takes 4,096; whoever steals the table pays for each
/// guess what a client pays once a connection, some 50 ms.
const ITERATIONS: usize = 100_000;
/// More would let a spoilt row keep a client busy for minutes.
const ITERATIONS_MAX: usize = 10_000_000;
const SALT_BYTES: usize = 16;
/// The mechanism's name, on the wire and at the head of what is stored.
pub const MECHANISM: &str = "SCRAM-SHA-256";

/// What is kept of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: usize,
    salt: Vec<u8>,
    stored_key: [u8; 32],
    server_key: [u8; 32],
}

/// A text that is no verifier.
#[derive(Debug, thiserror::Error)]
#[error("failed to read a SCRAM verifier: it is not written as {MECHANISM}$iterations:salt$key:key")]
pub struct NoVerifier;

/// A message of a client that does not follow the mechanism.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed SCRAM message: {0}")]
pub struct Malformed(pub &'static str);

impl Verifier {
    /// Of a password, with a salt of its own. Takes some 50 ms of one core.
    pub fn of(password: &str) -> Self {
        Self::with(password, rand::random::<[u8; SALT_BYTES]>().to_vec(), ITERATIONS)
    }

    fn with(password: &str, salt: Vec<u8>, iterations: usize) -> Self {
        let salted = gen_salted_password(password, &salt, iterations);
        let stored_key = Sha256::digest(hmac(&salted, b"Client Key")).into();
        Self { iterations, stored_key, server_key: hmac(&salted, b"Server Key"), salt }
    }

    /// Of no password, for a name that is not known: the same at each try, as a real one is.
    pub fn decoy(name: &str, secret: &[u8]) -> Self {
        let salt = hmac(secret, name.as_bytes())[..SALT_BYTES].to_vec();
        Self { iterations: ITERATIONS, salt, stored_key: rand::random(), server_key: rand::random() }
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] =
            [&self.salt[..], &self.stored_key, &self.server_key].map(|bytes| BASE64.encode(bytes));
        write!(f, "{MECHANISM}${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(***)")
    }
}

impl FromStr for Verifier {
    type Err = NoVerifier;

    fn from_str(text: &str) -> Result<Self, NoVerifier> {
        let read = || {
            let rest = text.strip_prefix(MECHANISM)?.strip_prefix('$')?;
            let (head, keys) = rest.split_once('$')?;
            let (iterations, salt) = head.split_once(':')?;
            let (stored, server) = keys.split_once(':')?;
            let key = |text: &str| BASE64.decode(text).ok()?.try_into().ok();
            Some(Self {
                iterations: iterations.parse().ok().filter(|count| (1..=ITERATIONS_MAX).contains(count))?,
                salt: BASE64.decode(salt).ok()?,
                stored_key: key(stored)?,
                server_key: key(server)?,
            })
        };
        read().ok_or(NoVerifier)
    }
}

/// An exchange after the client's first message.
#[derive(Debug)]
pub struct Exchange {
    verifier: Verifier,
    /// The header and the bare rest of the client's first message.
    header: String,
    client_first: String,
    nonce: String,
    server_first: String,
}

impl Exchange {
    /// Takes the client's first message.
    pub fn begin(client_first: &str, verifier: Verifier) -> Result<Self, Malformed> {
        let nonce = BASE64.encode(rand::random::<[u8; 18]>());
        Self::begin_with(client_first, verifier, &nonce)
    }

    fn begin_with(client_first: &str, verifier: Verifier, nonce: &str) -> Result<Self, Malformed> {
        // Header: whether the client binds to the channel, and for whom it speaks; both empty or refused here.
        let mut parts = client_first.splitn(3, ',');
        let (Some("n" | "y"), Some(""), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Malformed("channel binding and other identities are not offered"));
        };
        let client_nonce =
            attribute(bare, "r=").filter(|nonce| !nonce.is_empty()).ok_or(Malformed("no nonce"))?;
        if bare.starts_with("m=") {
            return Err(Malformed("extensions are not known"));
        }
        let nonce = format!("{client_nonce}{nonce}");
        let server_first = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        let header = client_first[..client_first.len() - bare.len()].to_owned();
        Ok(Self { verifier, header, client_first: bare.to_owned(), nonce, server_first })
    }

    /// What the server says to the client's first message.
    pub fn challenge(&self) -> &str {
        &self.server_first
    }

    /// Takes the client's last message; gives the server's last one, `None` when the password is wrong.
    pub fn finish(self, client_final: &str) -> Result<Option<String>, Malformed> {
        let (unproved, proof) = client_final.rsplit_once(",p=").ok_or(Malformed("no proof"))?;
        if attribute(unproved, "c=") != Some(BASE64.encode(&self.header).as_str()) {
            return Err(Malformed("another header than at first"));
        }
        if attribute(unproved, "r=") != Some(self.nonce.as_str()) {
            return Err(Malformed("another nonce than the server's"));
        }
        let proof: [u8; 32] = BASE64
            .decode(proof)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(Malformed("a proof of another length"))?;
        let said = format!("{},{},{unproved}", self.client_first, self.server_first);
        let signature = hmac(&self.verifier.stored_key, said.as_bytes());
        let client_key: Vec<u8> = proof.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        if Sha256::digest(client_key)[..] != self.verifier.stored_key[..] {
            return Ok(None);
        }
        let signature = hmac(&self.verifier.server_key, said.as_bytes());
        Ok(Some(format!("v={}", BASE64.encode(signature))))
    }
}

/// The value of the first attribute of this name.
fn attribute<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    message.split(',').find_map(|part| part.strip_prefix(name))
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    // HMAC takes keys of every length; a key that it refused would prove nothing and verify nothing.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return rand::random() };
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3: user `user`, password `pencil`.
    fn example() -> Exchange {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::with("pencil", salt, 4096);
        let first = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
        Exchange::begin_with(first, verifier, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0").unwrap()
    }

    const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    #[test]
    fn the_example_of_the_standard_holds() {
        let exchange = example();
        assert_eq!(
            exchange.challenge(),
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let last = exchange.finish(FINAL).unwrap();
        assert_eq!(last.as_deref(), Some("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
    }

    #[test]
    fn a_wrong_proof_and_another_password_are_refused() {
        let wrong = FINAL.replace("p=dHzb", "p=dHza");
        assert_eq!(example().finish(&wrong), Ok(None));
        let mut other = example();
        other.verifier.stored_key = Verifier::with("pencil2", other.verifier.salt.clone(), 4096).stored_key;
        assert_eq!(other.finish(FINAL), Ok(None));
        let mut nobody = example();
        nobody.verifier = Verifier::decoy("user", b"secret");
        assert_eq!(nobody.finish(FINAL), Ok(None));
    }

    #[test]
    fn messages_that_do_not_follow_the_mechanism_are_malformed() {
        for first in
            ["", "n,,", "n,,n=user", "p=tls-unique,,n=user,r=a", "n,a=other,n=user,r=a", "n,,m=x,n=u,r=a"]
        {
            assert!(Exchange::begin(first, Verifier::decoy("a", b"b")).is_err(), "{first}");
        }
        for last in [
            "",
            "c=biws,r=rOprNGfwEbeRWgbNEkqO",
            &FINAL.replace("c=biws", "c=eSws"),
            &FINAL.replace("r=rOpr", "r=rOpx"),
            &FINAL.replace("p=dHzb", "p=?"),
        ] {
            assert!(example().finish(last).is_err(), "{last}");
        }
    }

    #[test]
    fn a_verifier_is_read_as_it_was_written_and_never_shown() {
        let verifier = Verifier::with("pencil", vec![7; 16], 4096);
        assert_eq!(verifier.to_string().parse::<Verifier>().unwrap(), verifier);
        assert_eq!(format!("{verifier:?}"), "Verifier(***)");
        for wrong in ["", "SCRAM-SHA-256$0:AA==$AA==:AA==", "md5abc", "SCRAM-SHA-256$4096:x$y:z"] {
            assert!(wrong.parse::<Verifier>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_that_is_not_known_has_the_same_salt_at_each_try() {
        let salts = || Verifier::decoy("ann", b"secret").salt;
        assert_eq!(salts(), salts());
        assert_ne!(salts(), Verifier::decoy("ben", b"secret").salt);
    }
}
