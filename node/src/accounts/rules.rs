//! What an e-mail address and a password must look like.
//!
//! An address is what somebody is known by, so it is one spelling: ASCII, in lower case. Whether
//! mail reaches it is not checked: the node sends none.

use aither_protocol::limits::{EMAIL_BYTES_MAX, PASSWORD_BYTES};

use super::{InvalidField, SecretText};

/// Longest part before the `@` (RFC 5321).
const LOCAL_PART_BYTES_MAX: usize = 64;
/// Longest label of a domain (RFC 1035).
const LABEL_BYTES_MAX: usize = 63;

/// Returns an address as it is stored, in lower case.
///
/// # Errors
/// It is none.
pub fn check_email(text: &str) -> Result<String, InvalidField> {
    if is_address(text) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(InvalidField {
        field: "email",
        message: format!(
            "must be an address such as name@example.org, of at most {EMAIL_BYTES_MAX} characters"
        ),
    })
}

/// Checks a new password's length.
///
/// # Errors
/// It is too short or too long.
pub fn check_password(password: &SecretText) -> Result<(), InvalidField> {
    if PASSWORD_BYTES.contains(&password.reveal().len()) {
        return Ok(());
    }
    let (min, max) = (PASSWORD_BYTES.start(), PASSWORD_BYTES.end());
    Err(InvalidField {
        field: "password",
        message: format!("must have {min} to {max} bytes"),
    })
}

fn is_address(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else {
        return false;
    };
    // RFC 5322's "atext" and dots; quoted forms exist on paper only.
    let is_local =
        |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&byte);
    let is_label = |label: &str| {
        let fits = (1..=LABEL_BYTES_MAX).contains(&label.len());
        let is_plain = label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        fits && is_plain && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= EMAIL_BYTES_MAX
        && (1..=LOCAL_PART_BYTES_MAX).contains(&local.len())
        && local.bytes().all(is_local)
        && !local.starts_with('.')
        && !local.ends_with('.')
        && domain.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_other_texts() {
        for good in [
            "a@b",
            "Ann.Lee+x@Example.ORG",
            "o'neil@xn--bcher-kva.example",
        ] {
            assert_eq!(check_email(good), Ok(good.to_ascii_lowercase()), "{good}");
        }
        let long_local = format!("{}@example.org", "a".repeat(65));
        let long = format!("a@{}org", "example.".repeat(40));
        for bad in [
            "",
            "a",
            "@b",
            "a@",
            "a@b@c",
            "a b@c",
            "a@b c",
            "a@.b",
            "a@b.",
            "a@-b",
            "a\n@b",
            ".a@b",
            "a.@b",
            "<a@b>",
            "jos\u{e9}@b",
            "a@b\u{0}",
            &long_local,
            &long,
        ] {
            assert!(check_email(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn passwords_are_measured_in_bytes() {
        let fits = |text: &str| check_password(&text.to_owned().into()).is_ok();
        assert!(fits("12345678") && fits("\u{e9}\u{e9}\u{e9}\u{e9}") && fits(&"a".repeat(1024)));
        assert!(!fits("1234567") && !fits("") && !fits(&"a".repeat(1025)));
    }
}
