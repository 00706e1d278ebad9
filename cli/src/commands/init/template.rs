//! The agents that `init` writes, embedded from `cli/templates`.
//!
//! They have one placeholder, the agent's name. Replacing it takes one line; a template engine
//! would bring a language of its own, in which braces of Python and JavaScript need escaping.

use crate::args::TemplateLanguage;

/// What stands for the agent's name.
const NAME: &str = "{{name}}";

/// A new agent in one language.
#[derive(Debug, Clone, Copy)]
pub(super) struct Template {
    /// The language's word in the agent's file.
    pub(super) language: &'static str,
    /// Names and texts of its files.
    pub(super) files: &'static [(&'static str, &'static str)],
    /// Commands that start it, in its folder.
    pub(super) start: &'static str,
}

const PYTHON: Template = Template {
    language: "python3.12",
    files: &[
        (
            "aither-agent.yaml",
            include_str!("../../../templates/python/aither-agent.yaml"),
        ),
        ("main.py", include_str!("../../../templates/python/main.py")),
        (
            "requirements.txt",
            include_str!("../../../templates/python/requirements.txt"),
        ),
        (
            "README.md",
            include_str!("../../../templates/python/README.md"),
        ),
        (
            ".gitignore",
            include_str!("../../../templates/python/gitignore"),
        ),
    ],
    start: "  python3 -m venv .venv && .venv/bin/pip install -r requirements.txt\n  \
            .venv/bin/python main.py",
};

const NODE: Template = Template {
    language: "node22",
    files: &[
        (
            "aither-agent.yaml",
            include_str!("../../../templates/node/aither-agent.yaml"),
        ),
        ("main.mjs", include_str!("../../../templates/node/main.mjs")),
        (
            "package.json",
            include_str!("../../../templates/node/package.json"),
        ),
        (
            "README.md",
            include_str!("../../../templates/node/README.md"),
        ),
        (
            ".gitignore",
            include_str!("../../../templates/node/gitignore"),
        ),
    ],
    start: "  npm install\n  npm start",
};

/// Returns the agent in a language.
pub(super) const fn of(language: TemplateLanguage) -> Template {
    match language {
        TemplateLanguage::Python312 => PYTHON,
        TemplateLanguage::Node22 => NODE,
    }
}

/// Puts the agent's name into a text.
pub(super) fn fill(text: &str, name: &str) -> String {
    text.replace(NAME, name)
}

#[cfg(test)]
mod tests {
    use aither_protocol::agent_card::AgentCard;

    use super::*;

    #[test]
    fn files_are_valid_under_any_name() {
        // Without quotes YAML takes some of these for numbers and other values.
        for name in [
            "my-agent",
            "1",
            "007",
            "1e3",
            "true",
            "null",
            "0x1f",
            &"a".repeat(64),
        ] {
            for template in [PYTHON, NODE] {
                let (file, text) = template.files[0];
                assert_eq!(file, "aither-agent.yaml");
                let card = AgentCard::from_yaml(&fill(text, name));
                let card = card.unwrap_or_else(|errors| panic!("{name}: {errors:?}"));
                assert_eq!(card.name.as_str(), name);
                let runtime = card.runtime.unwrap();
                assert_eq!(runtime.language.as_str(), template.language);
                let files = template.files.iter();
                assert!(files.clone().any(|(file, _)| *file == runtime.entrypoint));
            }
        }
    }

    #[test]
    fn no_placeholder_is_left() {
        for template in [PYTHON, NODE] {
            for (file, text) in template.files {
                assert!(!fill(text, "my-agent").contains("{{"), "{file}");
                assert!(text.ends_with('\n'), "{file}");
            }
        }
    }

    #[test]
    fn packages_name_themselves() {
        let (_, text) = NODE
            .files
            .iter()
            .find(|(file, _)| *file == "package.json")
            .unwrap();
        let package: serde_json::Value = serde_json::from_str(&fill(text, "my-agent")).unwrap();
        assert_eq!(package["name"], "my-agent");
    }

    #[test]
    fn keys_are_kept_from_git() {
        for template in [PYTHON, NODE] {
            let (_, text) = template
                .files
                .iter()
                .find(|(file, _)| *file == ".gitignore")
                .unwrap();
            assert!(text.lines().any(|line| line == ".aither/"));
        }
    }
}
