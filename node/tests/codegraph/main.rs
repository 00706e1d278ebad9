//! The code graph through the crate's surface: what is read of files in each language, what names
//! mean across files, what hostile input costs, and how a repository is brought up to date.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop there"
)]

mod extraction;
mod hostile;
mod indexing;
mod queries;
mod resolution;

use std::{fs, path::Path};

use aither_node::codegraph::{Direction, FileGraph, Query, Relation, Repository, extract};

/// Returns the files below a folder of `testdata/codegraph`, in order.
fn fixture(name: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/codegraph");
    let root = root.join(name);
    let mut waiting = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
                continue;
            }
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
            files.push((name.replace('\\', "/"), fs::read_to_string(&path).unwrap()));
        }
    }
    files.sort();
    files
}

fn graph(path: &str, text: &str) -> FileGraph {
    extract(path, text).unwrap_or_else(|reason| panic!("{path}: {reason}"))
}

fn repository(files: &[(String, String)]) -> Repository {
    let graphs = files.iter();
    let graphs = graphs.map(|(path, text)| (path.clone(), graph(path, text)));
    Repository::new("shop", graphs.collect())
}

/// Makes a repository of files that a test writes itself.
fn repository_of(files: &[(&str, &str)]) -> Repository {
    let files = files.iter();
    let files: Vec<_> = files
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
        .collect();
    repository(&files)
}

/// Returns all edges of a relation that begin in a repository, as `from -> to confidence`.
fn edges(repository: &Repository, paths: &[&str], relation: Relation) -> Vec<String> {
    let mut edges = Vec::new();
    for path in paths {
        let rows = repository.ask(&Query {
            symbol: Some((*path).to_owned()),
            relation: Some(relation),
            direction: Some(Direction::Out),
            limit: 500,
            ..Query::default()
        });
        edges.extend(
            rows.into_iter()
                .filter(|row| row.direction.is_some())
                .map(|row| {
                    let confidence = format!("{:?}", row.confidence).to_lowercase();
                    format!("{} -> {} {confidence}", row.via.unwrap(), row.symbol)
                }),
        );
    }
    edges.sort();
    edges
}

/// Returns the edges of a relation of files that a test writes itself.
fn edges_of(files: &[(&str, &str)], relation: Relation) -> Vec<String> {
    let paths: Vec<_> = files.iter().map(|(path, _)| *path).collect();
    edges(&repository_of(files), &paths, relation)
}
