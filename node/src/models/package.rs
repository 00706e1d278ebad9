//! Where a Python package lies: asked of `pip`, which knows the user's index, mirror and proxy.
//!
//! `pip install --dry-run --report` resolves the exact version and reports its URL and checksum
//! without fetching the package. It runs as a child with closed input, bounded output and a
//! deadline, and is killed when nobody waits any more.

use std::{
    io::{self, Read},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use reqwest::Url;
use serde::Deserialize;

use super::{ModelStoreError, manifest::is_sha256};

/// A report on one package has some kilobytes, most of them its description.
const OUTPUT_BYTES_MAX: u64 = 8 << 20;
/// A slow index takes seconds; pip itself retries.
const DEADLINE: Duration = Duration::from_secs(180);
/// How often the child is looked after.
const POLL_PERIOD: Duration = Duration::from_millis(50);

/// Where a package lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedPackage {
    /// Its URL; `file:` where it is on this machine already.
    pub url: Url,
    /// Its SHA-256, if the index says it.
    pub sha256: Option<String>,
}

/// Asks for the URL of one version of a package; of `index`, or else of pip's configured one.
///
/// # Errors
/// There is no pip, it fails, or its report cannot be read.
pub async fn resolve(
    package: &str,
    version: &str,
    index: Option<&Url>,
) -> Result<ResolvedPackage, ModelStoreError> {
    let requirement = format!("{package}=={version}");
    let failed = |message: String| ModelStoreError::Package {
        package: requirement.clone(),
        message,
    };
    let child = start(&requirement, index).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => failed(format!("python3 is not installed; {REMEDY}")),
        _ => failed(format!("python3 cannot be started: {error}")),
    })?;
    let waited = child.clone();
    let output = tokio::task::spawn_blocking(move || waited.wait())
        .await
        .map_err(ModelStoreError::joined)?
        .map_err(&failed)?;
    read_report(&output).map_err(failed)
}

/// What helps when pip cannot.
const REMEDY: &str = "install Python 3 with pip, or fetch the GGUF file by other means and give \
                      it to \"aither-node models import FILE --name NAME\"";

/// The part of pip's report that is read.
#[derive(Deserialize)]
struct Report {
    install: Vec<Installation>,
}

#[derive(Deserialize)]
struct Installation {
    download_info: DownloadInfo,
}

#[derive(Deserialize)]
struct DownloadInfo {
    url: String,
    #[serde(default)]
    archive_info: ArchiveInfo,
}

#[derive(Deserialize, Default)]
struct ArchiveInfo {
    #[serde(default)]
    hashes: std::collections::BTreeMap<String, String>,
}

/// A child that dies with its last owner but one: the thread that waits for it.
#[derive(Clone)]
struct Running {
    child: Arc<Mutex<Option<Child>>>,
    /// Counts the askers; the thread stops when there is none.
    asked: Arc<()>,
}

fn start(requirement: &str, index: Option<&Url>) -> io::Result<Running> {
    let mut command = Command::new("python3");
    if let Some(index) = index {
        command.env("PIP_INDEX_URL", index.as_str());
    }
    let child = command
        .args([
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--ignore-installed",
            "--no-deps",
        ])
        .args(["--quiet", "--disable-pip-version-check", "--no-input"])
        .args(["--only-binary", ":all:", "--report", "-", requirement])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok(Running {
        child: Arc::new(Mutex::new(Some(child))),
        asked: Arc::new(()),
    })
}

impl Running {
    /// Waits for the end and returns what the child wrote.
    fn wait(self) -> Result<Vec<u8>, String> {
        let mut child = self
            .child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .ok_or("pip was waited for twice")?;
        let output = read_aside(child.stdout.take());
        let errors = read_aside(child.stderr.take());
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            match child.try_wait().map_err(|error| error.to_string())? {
                Some(status) => break status,
                // The asker has gone, or pip hangs.
                None if Arc::strong_count(&self.asked) == 1 || Instant::now() > deadline => {
                    // It may have ended by itself just now.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("pip took longer than {} s", DEADLINE.as_secs()));
                }
                None => thread::sleep(POLL_PERIOD),
            }
        };
        let output = output.join().map_err(|_| "reading from pip failed")?;
        let errors = errors.join().map_err(|_| "reading from pip failed")?;
        if status.success() {
            return Ok(output);
        }
        Err(explain(&String::from_utf8_lossy(&errors)))
    }
}

fn read_aside(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // A report that breaks off is refused when it is parsed.
            let _ = pipe.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Takes the line of pip's complaint that says most, and adds what helps.
fn explain(errors: &str) -> String {
    if errors.contains("No module named pip") {
        return format!("this Python has no pip; {REMEDY}");
    }
    let line = errors
        .lines()
        .rev()
        .find(|line| line.starts_with("ERROR:"))
        .or_else(|| errors.lines().rev().find(|line| !line.trim().is_empty()))
        .unwrap_or("pip failed without a word");
    let line: String = line.chars().filter(|c| !c.is_control()).take(300).collect();
    format!("pip says: {line}; check the network, or {REMEDY}")
}

fn read_report(output: &[u8]) -> Result<ResolvedPackage, String> {
    let report: Report = serde_json::from_slice(output)
        .map_err(|error| format!("pip's report cannot be read ({error}); pip 22.2 or newer?"))?;
    let [installation] = report.install.as_slice() else {
        return Err("pip's report names no package, or several".into());
    };
    let info = &installation.download_info;
    let url = Url::parse(&info.url).map_err(|error| format!("pip's report: {error}"))?;
    let sha256 = info
        .archive_info
        .hashes
        .get("sha256")
        .filter(|text| is_sha256(text))
        .cloned();
    Ok(ResolvedPackage { url, sha256 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_url_and_checksum() {
        let sha256 = "ab".repeat(32);
        let report = format!(
            r#"{{"version":"1","install":[{{"download_info":{{"url":"https://files.example/p.whl",
            "archive_info":{{"hashes":{{"sha256":"{sha256}"}}}}}},"metadata":{{}}}}]}}"#
        );
        let resolved = read_report(report.as_bytes()).unwrap();
        assert_eq!(resolved.url.as_str(), "https://files.example/p.whl");
        assert_eq!(resolved.sha256, Some(sha256));
    }

    #[test]
    fn reports_without_exactly_one_package_are_refused() {
        for report in ["", "{}", r#"{"install":[]}"#, r#"{"install":[{}]}"#] {
            assert!(read_report(report.as_bytes()).is_err(), "{report:?}");
        }
    }

    #[test]
    fn pips_complaint_is_told_in_one_line() {
        let words = explain("WARNING: x\nERROR: No matching distribution found for a==1\n\n");
        assert!(
            words.starts_with("pip says: ERROR: No matching distribution"),
            "{words}"
        );
        assert!(explain("/usr/bin/python3: No module named pip").contains("has no pip"));
        assert!(!explain("").contains('\n'));
    }
}
