//! Paths and names that callers write.

use gix::bstr::ByteSlice;

use super::{
    CodeError, NAME_BYTES_MAX, PATH_BYTES_MAX, WRITTEN_PATH_BYTES_MAX, WRITTEN_PATH_DEPTH_MAX,
};

/// Longest part of a path, as file systems have it.
const COMPONENT_BYTES_MAX: usize = 255;
/// Folders in the name of a branch.
const BRANCH_DEPTH_MAX: usize = 8;

/// Takes a path apart that is read. The top is `""`, `"/"` or `"."`.
pub(super) fn read_path(path: &str) -> Result<Vec<&str>, CodeError> {
    if path.len() > PATH_BYTES_MAX {
        let words = format!("must have at most {PATH_BYTES_MAX} bytes");
        return Err(CodeError::field("path", words));
    }
    let inner = path.strip_suffix('/').unwrap_or(path);
    if inner.is_empty() || inner == "." {
        return Ok(Vec::new());
    }
    let parts: Vec<_> = inner.split('/').collect();
    if parts.iter().any(|part| matches!(*part, "" | "." | "..")) || inner.contains('\0') {
        let words = "must be a path from the repository's top, without \"..\" and empty parts";
        return Err(CodeError::field("path", words));
    }
    Ok(parts)
}

/// Checks a path that is to be written: it must be one wherever the repository is checked out, so
/// names that some system takes for `.git`, or cannot store, are none.
pub(super) fn written_path<'a>(field: &str, path: &'a str) -> Result<Vec<&'a str>, CodeError> {
    let wrong = |message: String| CodeError::field(field, message);
    if path.is_empty() || path.len() > WRITTEN_PATH_BYTES_MAX {
        return Err(wrong(format!(
            "must have 1 to {WRITTEN_PATH_BYTES_MAX} bytes"
        )));
    }
    let parts: Vec<_> = path.split('/').collect();
    if parts.len() > WRITTEN_PATH_DEPTH_MAX {
        return Err(wrong(format!(
            "must have at most {WRITTEN_PATH_DEPTH_MAX} parts"
        )));
    }
    for part in &parts {
        if part.len() > COMPONENT_BYTES_MAX {
            return Err(wrong(format!(
                "has a part of more than {COMPONENT_BYTES_MAX} bytes"
            )));
        }
        if part.chars().any(char::is_control) {
            return Err(wrong("must not have control characters".to_owned()));
        }
        let options = gix::validate::path::component::Options::default();
        // As a link `.gitmodules` and its like are refused by all their names as well; a file of
        // that name would have others fetch and run what it says.
        let mode = Some(gix::validate::path::component::Mode::Symlink);
        let checked = gix::validate::path::component(part.as_bytes().as_bstr(), mode, options);
        checked.map_err(|error| wrong(format!("{part:?} cannot be in a path here: {error}")))?;
    }
    Ok(parts)
}

/// Checks the name of a branch below its writer's folder.
pub(super) fn branch_name(name: &str) -> Result<&str, CodeError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let part_fits = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && !part.ends_with('.')
            && !part.contains("..")
            && !part.to_ascii_lowercase().ends_with(".lock")
    };
    let fits = name.len() <= NAME_BYTES_MAX
        && name.chars().all(plain)
        && name.split('/').all(part_fits)
        && name.split('/').count() <= BRANCH_DEPTH_MAX;
    if fits {
        return Ok(name);
    }
    let words = "must be a branch's name of letters, digits, '-', '_', '.' and '/'; it is made \
                 below a folder of your own";
    Err(CodeError::field("branch", words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_are_written_stay_in_the_tree_wherever_it_is_checked_out() {
        for path in [
            "a",
            "src/main.rs",
            ".gitignore",
            ".github/x.yml",
            "a b/ä.txt",
            "git",
        ] {
            assert!(written_path("path", path).is_ok(), "{path}");
        }
        for path in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "../a",
            "a/../b",
            "a/./b",
            "a\\b",
            "..\\a",
            "C:/a",
            "c:a",
            "a\0b",
            "a\nb",
            ".git",
            ".git/config",
            "a/.git/hooks/pre-commit",
            ".GIT/config",
            ".Git",
            ".git.",
            ".git ",
            ".git...",
            ".git::$INDEX_ALLOCATION",
            "git~1",
            "GIT~1/config",
            ".g\u{200c}it",
            ".gi\u{200d}t/config",
            "\u{feff}.git",
            ".gitmodules",
            ".GITMODULES",
            "gitmod~1",
            "GI7EBA~1",
            "aux",
            "CON.txt",
            "nul",
            "a.",
            "a ",
            "a:b",
            "a?b",
            "a*b",
        ] {
            assert!(written_path("path", path).is_err(), "{path:?}");
        }
        assert!(written_path("path", &"a".repeat(256)).is_err());
        assert!(written_path("path", &"a/".repeat(40)).is_err());
        assert!(written_path("path", &format!("a{}", "/aaaaaaaaa".repeat(110))).is_err());
    }

    #[test]
    fn paths_that_are_read_have_no_way_up() {
        assert!(read_path("").unwrap().is_empty());
        assert!(read_path("/").unwrap().is_empty());
        assert_eq!(read_path("a/b/").unwrap(), ["a", "b"]);
        for path in ["/etc/passwd", "../a", "a/../../b", "a//b", "./a", "a\0"] {
            assert!(read_path(path).is_err(), "{path:?}");
        }
        assert!(read_path(&"a".repeat(PATH_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn branches_are_plain_names() {
        for name in ["work", "fix/a-b_c.1", "2026"] {
            assert!(branch_name(name).is_ok(), "{name}");
        }
        for name in [
            "", "/a", "a/", "a//b", "..", "a/../b", "a..b", "-a", ".a", "a.lock", "a.LOCK/b",
            "a b", "a~1", "a^", "a:b", "@", "a@{0}", "ä", "a\n", "a.",
        ] {
            assert!(branch_name(name).is_err(), "{name:?}");
        }
        assert!(branch_name(&"a".repeat(NAME_BYTES_MAX + 1)).is_err());
        assert!(branch_name("a/a/a/a/a/a/a/a/a").is_err());
    }
}
