//! What `--model` means: stored models by name, or files where they lie.

use std::path::{Path, PathBuf};

use super::{ModelEntry, ModelStore, ModelStoreError, name_of_file};

/// One `--model`, as typed: `NAME=FILE`, `FILE` or `NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServeSpec {
    /// A model of the store.
    Stored(String),
    /// A file, used where it lies.
    File {
        /// The name to serve it under.
        name: String,
        /// The file.
        path: PathBuf,
    },
}

impl ServeSpec {
    /// Reads one. What has a path separator in front, ends in `.gguf` or is there as a file is
    /// a file; everything else is a name.
    ///
    /// # Errors
    /// A file has no name that could be served.
    pub fn parse(given: &str) -> Result<Self, ModelStoreError> {
        if let Some((name, path)) = given.split_once('=') {
            super::check_name(name)?;
            return Ok(Self::File {
                name: name.to_owned(),
                path: path.into(),
            });
        }
        let path = Path::new(given);
        let looks_like_file = given.starts_with(['/', '.', '~'])
            || path
                .extension()
                .is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
            || path.is_file();
        if looks_like_file {
            return Ok(Self::File {
                name: name_of_file(path)?,
                path: path.to_owned(),
            });
        }
        Ok(Self::Stored(given.to_owned()))
    }
}

impl ModelStore {
    /// Serves these models only; returns their names in the order given.
    ///
    /// # Errors
    /// A name is not in the store, or a file is no usable model.
    pub fn serve_only(&self, given: &[String]) -> Result<Vec<String>, ModelStoreError> {
        let mut names = Vec::with_capacity(given.len());
        for given in given {
            names.push(self.find(given)?.name);
        }
        self.choose(names.iter().cloned());
        Ok(names)
    }

    /// Returns a model of the store, or makes a file known where it lies.
    ///
    /// # Errors
    /// The name is not in the store, or the file is no usable model.
    pub fn find(&self, given: &str) -> Result<ModelEntry, ModelStoreError> {
        match ServeSpec::parse(given)? {
            // A short name of the catalogue's means what it fetches.
            ServeSpec::Stored(name) => self
                .get(&name)
                .or_else(|| self.get(super::catalogue::find(&name)?.name))
                .ok_or_else(|| self.not_found(&name)),
            ServeSpec::File { name, path } => self.use_in_place(&name, &path),
        }
    }

    /// The refusal of a name that is not here, with what helps.
    pub fn not_found(&self, name: &str) -> ModelStoreError {
        let remedy = if super::catalogue::find(name).is_some() {
            format!("\"aither-node models pull {name}\" fetches it")
        } else {
            let names: Vec<_> = self.list().into_iter().map(|entry| entry.name).collect();
            match names.as_slice() {
                [] => "the store is empty: \"aither-node models pull\" fetches one".to_owned(),
                _ => format!("it has {}", names.join(", ")),
            }
        };
        ModelStoreError::NotFound {
            name: name.to_owned(),
            remedy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_files_are_told_apart() {
        let file = |name: &str, path: &str| ServeSpec::File {
            name: name.into(),
            path: path.into(),
        };
        let cases = [
            ("smollm2:135m", ServeSpec::Stored("smollm2:135m".into())),
            ("me/model", ServeSpec::Stored("me/model".into())),
            ("a=b", file("a", "b")),
            ("a:b=/x/y=z.gguf", file("a:b", "/x/y=z.gguf")),
            ("M.gguf", file("m", "M.gguf")),
            ("/x/M.GGUF", file("m", "/x/M.GGUF")),
            ("./model", file("model", "./model")),
        ];
        for (given, expected) in cases {
            assert_eq!(ServeSpec::parse(given).unwrap(), expected);
        }
        assert!(ServeSpec::parse("../x=y").is_err());
    }
}
