//! Which key to send.
//!
//! `AITHEROS_API_KEY` wins. Without it, the admin key of the node that runs on this machine is
//! taken, where this user may read it. That key rules its node, so it is sent only to a loopback
//! address, and only when the data directory's `run.json` says that the node there listens on the
//! very port that is asked: another server on this machine must not get it. No key at all is fine,
//! too: a node lets local callers use its models without one.

use std::{
    env, fmt, fs,
    io::Read,
    path::{Path, PathBuf},
};

use reqwest::{Url, header::HeaderValue};
use serde::Deserialize;

use crate::error::Error;

/// A key is some sixty characters; `run.json` a few hundred.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A secret; its `Debug` does not show it.
#[derive(Clone)]
pub(crate) struct ApiKey(HeaderValue);

impl ApiKey {
    fn new(key: &str) -> Option<Self> {
        let is_plain = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
        let mut value = HeaderValue::from_str(&format!("Bearer {key}")).ok()?;
        value.set_sensitive(true);
        is_plain.then_some(Self(value))
    }

    /// Returns the value of the `Authorization` header.
    pub(crate) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(***)")
    }
}

/// The part of `run.json` that is read.
#[derive(Deserialize)]
struct RunFile {
    http: String,
}

/// Finds the key for a server, if there is one.
pub(super) fn find(
    server: &Url,
    is_local: bool,
    data_dir: Option<&Path>,
) -> Result<Option<ApiKey>, Error> {
    match env::var("AITHEROS_API_KEY") {
        Ok(key) if !key.trim().is_empty() => {
            return ApiKey::new(key.trim()).map(Some).ok_or(Error::BadKey);
        }
        Err(env::VarError::NotUnicode(_)) => return Err(Error::BadKey),
        _ => {}
    }
    let directory = data_dir.map(Path::to_owned).or_else(default_data_dir);
    Ok(directory
        .filter(|_| is_local)
        .and_then(|directory| admin_key(server, &directory)))
}

fn default_data_dir() -> Option<PathBuf> {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("XDG_DATA_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/share")))
        .map(|share| share.join("aither"))
}

/// Reads the admin key of the node that runs on a data directory, if that is the server asked.
fn admin_key(server: &Url, directory: &Path) -> Option<ApiKey> {
    let run: RunFile = serde_json::from_str(&read_small(&directory.join("run.json"))?).ok()?;
    let running = Url::parse(&run.http).ok()?;
    if running.port_or_known_default() != server.port_or_known_default() {
        return None;
    }
    ApiKey::new(read_small(&directory.join("admin.key"))?.trim())
}

/// Reads a small file; none when it is missing, unreadable, too large or not text.
fn read_small(path: &Path) -> Option<String> {
    let mut text = String::new();
    let mut file = fs::File::open(path).ok()?.take(FILE_BYTES_MAX);
    file.read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(http: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let run = format!(r#"{{"pid": 1, "http": "{http}"}}"#);
        fs::write(directory.path().join("run.json"), run).unwrap();
        fs::write(directory.path().join("admin.key"), "secret-words\n").unwrap();
        directory
    }

    #[test]
    fn admin_key_goes_to_the_running_nodes_port() {
        let directory = directory("http://127.0.0.1:8200");
        let server = Url::parse("http://localhost:8200").unwrap();
        let key = admin_key(&server, directory.path()).unwrap();
        assert_eq!(key.header(), "Bearer secret-words");
    }

    #[test]
    fn admin_key_stays_here_when_another_port_is_asked() {
        let directory = directory("http://127.0.0.1:9000");
        let server = Url::parse("http://localhost:8200").unwrap();
        assert!(admin_key(&server, directory.path()).is_none());
    }

    #[test]
    fn admin_key_stays_here_when_no_node_runs() {
        let directory = directory("http://127.0.0.1:8200");
        fs::remove_file(directory.path().join("run.json")).unwrap();
        let server = Url::parse("http://localhost:8200").unwrap();
        assert!(admin_key(&server, directory.path()).is_none());
    }

    #[test]
    fn key_is_not_shown_and_must_be_plain() {
        let key = ApiKey::new("secret").unwrap();
        assert_eq!(
            format!("{key:?} {:?}", key.header()),
            "ApiKey(***) Sensitive"
        );
        for bad in ["", "two words", "line\nbreak", "schlüssel"] {
            assert!(ApiKey::new(bad).is_none(), "{bad:?}");
        }
    }
}
