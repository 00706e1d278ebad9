//! Going through trees: what is below one, and what differs between two.
//!
//! By a list of what is left to do and not by recursion, since a tree may be as deep as whoever
//! made it likes.

use std::collections::BTreeMap;

use gix::{ObjectId, bstr::ByteSlice};

use super::{
    ChangeKind, ChangedPath, CodeError, EntryKind, ListedEntry, PATH_BYTES_MAX, TREES_READ_MAX,
    repository::{Entry, Repository},
};

/// Lists a tree, with what is below it if `is_recursive`, up to `limit` entries. Returns whether
/// there is more.
pub(super) fn list(
    repository: &Repository,
    (tree, path): (ObjectId, &str),
    is_recursive: bool,
    limit: usize,
) -> Result<(Vec<ListedEntry>, bool), CodeError> {
    let mut entries = Vec::new();
    let mut trees_read = 0;
    let entry_at = |path: &[u8], entry: &Entry| (join(path, &entry.name), entry.kind, entry.id);
    let of = |path: &[u8], id| -> Result<Vec<_>, CodeError> {
        let entries = repository.tree(id)?;
        // The next one stands at the end.
        Ok(entries.iter().rev().map(|e| entry_at(path, e)).collect())
    };
    let mut left = of(path.as_bytes(), tree)?;
    while let Some((path, kind, id)) = left.pop() {
        if entries.len() == limit {
            return Ok((entries, true));
        }
        entries.push(ListedEntry {
            path: path.to_str_lossy().into_owned(),
            kind,
            id: id.to_string(),
        });
        if is_recursive && kind == EntryKind::Folder {
            trees_read += 1;
            if trees_read > TREES_READ_MAX || path.len() > PATH_BYTES_MAX {
                return Ok((entries, true));
            }
            left.extend(of(&path, id)?);
        }
    }
    Ok((entries, false))
}

/// A folder that is to be compared, on one or on both sides.
struct Pair {
    path: Vec<u8>,
    old: Option<ObjectId>,
    new: Option<ObjectId>,
}

/// Lists what is different in a new tree, up to `limit` paths. Returns whether there is more.
pub(super) fn diff(
    repository: &Repository,
    old: Option<ObjectId>,
    new: ObjectId,
    limit: usize,
) -> Result<(Vec<ChangedPath>, bool), CodeError> {
    let mut changes = Vec::new();
    let mut is_cut = false;
    let mut trees_read = 0;
    let mut left = vec![Pair {
        path: Vec::new(),
        old,
        new: Some(new),
    }];
    while let Some(pair) = left.pop() {
        trees_read += 2;
        if changes.len() > limit || trees_read > TREES_READ_MAX {
            is_cut = true;
            break;
        }
        if pair.path.len() > PATH_BYTES_MAX {
            is_cut = true;
            continue;
        }
        for (name, (old, new)) in sides(repository, &pair)? {
            if old == new {
                continue;
            }
            let path = join(&pair.path, &name);
            let (old_tree, old_file) = split(old);
            let (new_tree, new_file) = split(new);
            if let Some(change) = changed(&path, old_file, new_file) {
                changes.push(change);
            }
            if old_tree.is_some() || new_tree.is_some() {
                let (old, new) = (old_tree, new_tree);
                left.push(Pair { path, old, new });
            }
        }
    }
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    is_cut |= changes.len() > limit;
    changes.truncate(limit);
    Ok((changes, is_cut))
}

/// What a name stands for on both sides.
type Sides = (Option<Entry>, Option<Entry>);

fn sides(repository: &Repository, pair: &Pair) -> Result<BTreeMap<Vec<u8>, Sides>, CodeError> {
    let mut sides: BTreeMap<Vec<u8>, Sides> = BTreeMap::new();
    let read = |id: Option<ObjectId>| id.map_or_else(|| Ok(Vec::new()), |id| repository.tree(id));
    for entry in read(pair.old)? {
        let name = entry.name.clone();
        sides.entry(name).or_default().0 = Some(entry);
    }
    for entry in read(pair.new)? {
        let name = entry.name.clone();
        sides.entry(name).or_default().1 = Some(entry);
    }
    Ok(sides)
}

/// Tells a folder from what is none.
fn split(entry: Option<Entry>) -> (Option<ObjectId>, Option<Entry>) {
    match entry {
        Some(entry) if entry.kind == EntryKind::Folder => (Some(entry.id), None),
        other => (None, other),
    }
}

fn changed(path: &[u8], old: Option<Entry>, new: Option<Entry>) -> Option<ChangedPath> {
    let change = match (&old, &new) {
        (None, None) => return None,
        (None, Some(_)) => ChangeKind::Added,
        (Some(_), None) => ChangeKind::Deleted,
        (Some(_), Some(_)) => ChangeKind::Modified,
    };
    Some(ChangedPath {
        path: path.to_str_lossy().into_owned(),
        change,
        old_id: old.map(|entry| entry.id.to_string()),
        new_id: new.map(|entry| entry.id.to_string()),
    })
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match folder.is_empty() {
        true => name.to_vec(),
        false => [folder, b"/", name].concat(),
    }
}
