//! Tokens: JSON Web Tokens signed with HMAC-SHA-256, made at login and checked at every request.
//!
//! A token says who its bearer is; what they may do is read from the database at each use, so that a
//! removed user or a revoked grant does not live on until the token expires.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use crate::{GatewaySettings, SetupError, User};

/// HMAC-SHA-256 is as strong as its key only up to 32 bytes (RFC 7518, section 3.2).
const SECRET_BYTES_MIN: usize = 32;

/// Clocks of two replicas may differ by this much, in seconds.
const LEEWAY_SECONDS: u64 = 10;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) sub: String,
    pub(crate) iat: u64,
    pub(crate) nbf: u64,
    pub(crate) exp: u64,
    pub(crate) iss: String,
    pub(crate) aud: String,
    pub(crate) admin: bool,
    /// The user's [`User::password_mark`] when it was made: a new password ends all tokens made before it.
    pub(crate) pwd: String,
}

/// Makes and checks tokens.
pub(crate) struct Tokens {
    signing: EncodingKey,
    checking: DecodingKey,
    validation: Validation,
    issuer: String,
    audience: String,
    lifetime: Duration,
}

impl Tokens {
    /// Refuses a secret that is too short.
    pub(crate) fn new(settings: &GatewaySettings) -> Result<Self, SetupError> {
        let secret = settings.jwt_secret.expose_secret().as_bytes();
        if secret.len() < SECRET_BYTES_MIN {
            return Err(SetupError::ShortSecret { bytes: secret.len(), bytes_min: SECRET_BYTES_MIN });
        }
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_issuer(&[&settings.token_issuer]);
        validation.set_audience(&[&settings.token_audience]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        Ok(Self {
            signing: EncodingKey::from_secret(secret),
            checking: DecodingKey::from_secret(secret),
            validation,
            issuer: settings.token_issuer.clone(),
            audience: settings.token_audience.clone(),
            lifetime: settings.token_lifetime,
        })
    }

    /// A token for this user, and the seconds for which it is valid.
    pub(crate) fn make(&self, user: &User) -> Result<(String, u64), jsonwebtoken::errors::Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let lifetime = self.lifetime.as_secs();
        let claims = Claims {
            sub: user.name.clone(),
            iat: now,
            nbf: now,
            exp: now.saturating_add(lifetime),
            iss: self.issuer.clone(),
            aud: self.audience.clone(),
            admin: user.is_admin,
            pwd: user.password_mark.clone(),
        };
        Ok((jsonwebtoken::encode(&Header::default(), &claims, &self.signing)?, lifetime))
    }

    /// The claims of a token that is signed here, for here, and valid now; else what is wrong with it.
    pub(crate) fn check(&self, token: &str) -> Result<Claims, &'static str> {
        match jsonwebtoken::decode::<Claims>(token, &self.checking, &self.validation) {
            Ok(data) => Ok(data.claims),
            Err(error) => Err(match error.kind() {
                ErrorKind::ExpiredSignature => "the token has expired; log in again",
                ErrorKind::ImmatureSignature => "the token is not valid yet; compare the clocks",
                ErrorKind::InvalidAudience => "the token is for another audience",
                ErrorKind::InvalidIssuer => "the token was made by another issuer",
                _ => "the token is not one that was made here; log in again",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(secret: &str) -> GatewaySettings {
        GatewaySettings::new(secret.to_owned().into())
    }

    fn ann(is_admin: bool) -> User {
        let password_mark = "a mark".to_owned();
        User {
            name: "ann".to_owned(),
            is_admin,
            created_at: Default::default(),
            grants: Vec::new(),
            password_mark,
        }
    }

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_token_comes_back_as_it_was_made() {
        let tokens = Tokens::new(&settings(SECRET)).unwrap();
        let (token, seconds) = tokens.make(&ann(true)).unwrap();
        let claims = tokens.check(&token).unwrap();
        assert_eq!((claims.sub.as_str(), claims.admin, claims.exp - claims.iat), ("ann", true, seconds));
    }

    #[test]
    fn a_short_secret_is_refused_at_start() {
        assert!(matches!(
            Tokens::new(&settings(&SECRET[1..])),
            Err(SetupError::ShortSecret { bytes: 31, bytes_min: 32 })
        ));
    }

    #[test]
    fn a_token_of_another_secret_issuer_or_audience_is_refused() {
        let tokens = Tokens::new(&settings(SECRET)).unwrap();
        let mut others = [SECRET, SECRET, "another secret of more than 32 bytes"].map(settings);
        others[0].token_issuer = "elsewhere".to_owned();
        others[1].token_audience = "elsewhere".to_owned();
        for (other, word) in others.iter().zip(["issuer", "audience", "made here"]) {
            let (token, _) = Tokens::new(other).unwrap().make(&ann(true)).unwrap();
            let refused = tokens.check(&token).unwrap_err();
            assert!(refused.contains(word), "{refused}");
        }
    }

    #[test]
    fn a_token_without_signature_or_with_another_algorithm_is_refused() {
        let tokens = Tokens::new(&settings(SECRET)).unwrap();
        let (token, _) = tokens.make(&ann(false)).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        // {"alg":"none","typ":"JWT"}
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts[1]);
        let hs512 = jsonwebtoken::encode(
            &Header::new(Algorithm::HS512),
            &tokens.check(&token).unwrap(),
            &EncodingKey::from_secret(SECRET.as_bytes()),
        );
        for bad in [unsigned, hs512.unwrap(), format!("{}.{}.", parts[0], parts[1]), String::new()] {
            assert!(tokens.check(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_is_refused_before_and_after_its_time() {
        let tokens = Tokens::new(&settings(SECRET)).unwrap();
        let (token, _) = tokens.make(&ann(false)).unwrap();
        let good = tokens.check(&token).unwrap();
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let past = Claims { exp: good.iat - 60, ..good.clone() };
        let future = Claims { nbf: good.iat + 60, ..good };
        for (claims, word) in [(past, "expired"), (future, "not valid yet")] {
            let token = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
            assert!(tokens.check(&token).unwrap_err().contains(word));
        }
    }
}
