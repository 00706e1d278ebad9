//! Passwords: argon2id with the parameters that OWASP recommends, as PHC strings.
//!
//! One hash takes 19 MiB and some tens of milliseconds of a core; callers bound how many run at
//! once. A string of other parameters is verified with its own.

use argon2::{Argon2, PasswordHasher, PasswordVerifier, password_hash::phc::PasswordHash};

use super::{SecretText, StoreError, secret};

/// Bytes of a salt (RFC 9106, 3.1).
const SALT_BYTES: usize = 16;
/// Verified where there is no password, so that it takes as long as a wrong one. No password
/// has this hash.
const NOBODYS_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$\
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Returns the hash to store for a password.
///
/// # Errors
/// The operating system gives no random bytes.
pub fn hash_password(password: &SecretText) -> Result<String, StoreError> {
    let salt = secret::random::<SALT_BYTES>()?;
    let hash: PasswordHash = Argon2::default()
        .hash_password_with_salt(password.reveal().as_bytes(), salt.as_slice())
        .expect("the default parameters hash any password of the length that was checked");
    Ok(hash.to_string())
}

/// Returns whether a password has this hash. Without a hash it takes as long, and is false.
pub fn matches_password(password: &SecretText, hash: Option<&str>) -> bool {
    let verified = Argon2::default()
        .verify_password(password.reveal().as_bytes(), hash.unwrap_or(NOBODYS_HASH));
    verified.is_ok() && hash.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_password_matches() {
        let password = SecretText::from("correct horse".to_owned());
        let hash = hash_password(&password).unwrap();
        assert!(matches_password(&password, Some(&hash)));
        assert!(!matches_password(
            &"correct hors".to_owned().into(),
            Some(&hash)
        ));
        assert!(!matches_password(&password, None));
        assert!(!matches_password(&password, Some("no hash")));
        assert_ne!(hash_password(&password).unwrap(), hash);
    }

    #[test]
    fn nobodys_hash_costs_what_a_real_one_does() {
        let real = hash_password(&"correct horse".to_owned().into()).unwrap();
        let cost = |hash: &str| PasswordHash::new(hash).unwrap().params.to_string();
        assert_eq!(cost(NOBODYS_HASH), cost(&real));
        let bytes = |hash: &str| PasswordHash::new(hash).unwrap().hash.unwrap().len();
        assert_eq!(bytes(NOBODYS_HASH), bytes(&real));
    }
}
