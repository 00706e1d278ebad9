//! Paths of files in a workspace.
//!
//! What a path may look like is said here once, before anything is opened: relative, plain, and
//! the same on every system. Nothing is decoded and nothing is tidied up, so a path means what is
//! written: `%2e%2e` is a name with percent signs, and `a/./b` is refused, not read as `a/b`.

use std::{fmt, str::FromStr};

/// Longest path.
pub const PATH_BYTES_MAX: usize = 1024;
/// Most folders, and the file.
pub const SEGMENTS_MAX: usize = 32;
/// Longest name of a file or folder: what file systems take.
pub const SEGMENT_BYTES_MAX: usize = 255;

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// Nothing is named.
    #[error("must name a file")]
    Empty,
    /// It begins at the root of something.
    #[error("must be relative to the workspace: no slash and no drive at its beginning")]
    Absolute,
    /// It has a name that is none.
    #[error("must not have empty parts, \".\" or \"..\"")]
    NoName,
    /// It has what one system or another reads as something else.
    #[error("must not have backslashes or control characters")]
    Character,
    /// It is longer than any.
    #[error(
        "must have at most {PATH_BYTES_MAX} bytes, {SEGMENTS_MAX} parts and {SEGMENT_BYTES_MAX} \
         bytes in each part"
    )]
    TooLong,
}

/// A path that stays in its workspace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilePath {
    /// One at least.
    parts: Vec<Box<str>>,
}

impl FilePath {
    /// Reads a path.
    ///
    /// # Errors
    /// It could leave the workspace, or is no path.
    pub fn parse(text: &str) -> Result<Self, PathFault> {
        if text.is_empty() {
            return Err(PathFault::Empty);
        }
        if PATH_BYTES_MAX < text.len() {
            return Err(PathFault::TooLong);
        }
        if text.contains('\\') || text.chars().any(char::is_control) {
            return Err(PathFault::Character);
        }
        let is_drive = text.as_bytes().get(1) == Some(&b':')
            && text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
        if text.starts_with('/') || is_drive {
            return Err(PathFault::Absolute);
        }
        let mut parts = Vec::new();
        for part in text.split('/') {
            if matches!(part, "" | "." | "..") {
                return Err(PathFault::NoName);
            }
            if SEGMENT_BYTES_MAX < part.len() || parts.len() == SEGMENTS_MAX {
                return Err(PathFault::TooLong);
            }
            parts.push(part.into());
        }
        Ok(Self { parts })
    }

    /// Returns all names, the file's the last.
    pub fn parts(&self) -> &[Box<str>] {
        &self.parts
    }

    /// Returns the folders, and the name in the last of them.
    pub fn split(&self) -> (&[Box<str>], &str) {
        match self.parts.split_last() {
            Some((name, folders)) => (folders, name),
            // No path is without a name.
            None => (&[], ""),
        }
    }
}

impl FromStr for FilePath {
    type Err = PathFault;

    fn from_str(text: &str) -> Result<Self, PathFault> {
        Self::parse(text)
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_relative_paths_are_taken_as_they_are() {
        let deep = vec!["a"; SEGMENTS_MAX].join("/");
        let long = "n".repeat(SEGMENT_BYTES_MAX);
        for path in [
            "a",
            "data/notes.txt",
            "...",
            "a/..b/c",
            ".hidden",
            "data/n\u{f6} \u{1f9e0}",
            "%2e%2e/%2e%2e%2fetc",
            "..%2f..%2fetc",
            "ab:c",
            "CON",
            "a b",
            &deep,
            &long,
        ] {
            assert_eq!(FilePath::parse(path).unwrap().to_string(), path);
        }
    }

    // tidy: table
    #[test]
    fn hostile_paths_are_refused() {
        let deep = vec!["a"; SEGMENTS_MAX + 1].join("/");
        let long = "n".repeat(SEGMENT_BYTES_MAX + 1);
        let longest = vec!["n".repeat(200); 6].join("/");
        for (path, fault) in [
            ("", PathFault::Empty),
            ("/", PathFault::Absolute),
            ("/etc/passwd", PathFault::Absolute),
            ("//server/share", PathFault::Absolute),
            ("C:/x", PathFault::Absolute),
            ("c:", PathFault::Absolute),
            ("c:x", PathFault::Absolute),
            ("..", PathFault::NoName),
            ("../x", PathFault::NoName),
            ("a/../../x", PathFault::NoName),
            ("a/..", PathFault::NoName),
            (".", PathFault::NoName),
            ("./a", PathFault::NoName),
            ("a/./b", PathFault::NoName),
            ("a//b", PathFault::NoName),
            ("a/", PathFault::NoName),
            ("..\\x", PathFault::Character),
            ("a\\b", PathFault::Character),
            ("\\\\server\\share", PathFault::Character),
            ("a\0", PathFault::Character),
            ("a\0/../b", PathFault::Character),
            ("a\n", PathFault::Character),
            ("a\u{7f}", PathFault::Character),
            ("a\u{85}", PathFault::Character),
            (&deep, PathFault::TooLong),
            (&long, PathFault::TooLong),
            (&longest, PathFault::TooLong),
        ] {
            assert_eq!(FilePath::parse(path), Err(fault), "{path:?}");
        }
    }
}
