//! GGUF files, versions 2 and 3: the header decoded, the tensor data mapped.
//!
//! A file is hostile until read: every count, length and offset is bounded by [`limits`] and by
//! the bytes that are there before it is used, so that memory stays within a small multiple of
//! the header's size and no input panics. Tensors may overlap; they are only read.
//! Big-endian files, version 1 and files split into parts are refused with words.
//!
//! The data is not copied: a [`TensorView`] points into the mapping, whose pages the system loads
//! when they are touched. A file may be deleted or replaced by renaming while it is open. It must
//! not be shortened or written in place: touching a page that is gone ends the process.

mod info;
pub mod limits;
mod metadata;
mod reader;
mod tensor;

use std::{
    collections::HashMap,
    fs::{self, File},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use memmap2::Mmap;

pub use self::{
    info::FileInfo,
    metadata::{Array, Metadata, Value},
    tensor::{TensorInfo, TensorType},
};
use self::{
    reader::Reader,
    tensor::{DataPlace, RawTensor},
};
use crate::error::{Error, Result};

/// The first four bytes of a file.
const MAGIC: &[u8; 4] = b"GGUF";

/// An open model file; clones share it.
#[derive(Clone)]
pub struct Gguf {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    map: Mmap,
    header: Header,
}

/// A decoded header: metadata and the table of tensors.
#[derive(Debug, Clone)]
pub struct Header {
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index_by_name: HashMap<String, usize>,
}

/// One tensor of an open file.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Lengths of its dimensions, innermost first.
    pub shape: &'a [u64],
    /// How its numbers are stored.
    pub ty: TensorType,
    /// Its blocks. Invariant of an open file's: the length is exactly that of `shape` in `ty`.
    pub data: &'a [u8],
    /// What `data` is a part of, where that is a file.
    map: Option<&'a Mmap>,
}

impl Gguf {
    /// Opens and maps a file and checks its header. Tensor data is not touched.
    ///
    /// # Errors
    /// [`Error::ModelFile`] where the file cannot be read, [`Error::InvalidGguf`] where it is
    /// malformed, [`Error::UnsupportedModel`] where it needs what this build lacks.
    pub fn open(path: &Path) -> Result<Self> {
        let unreadable = |message: String| Error::ModelFile {
            path: path.to_owned(),
            message,
        };
        // Asked before opening, which would block on a pipe.
        let kind = fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
        if !kind.is_file() {
            return Err(unreadable("not a regular file".into()));
        }
        let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
        #[expect(unsafe_code, reason = "a model file is mapped, not read into memory")]
        // SAFETY: the mapping is read-only and private to this process, and is read as plain
        // bytes, for which every value is valid: text is copied before its encoding is checked.
        // What remains is a file shortened by others, which the module's documentation forbids.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| unreadable(error.to_string()))?;
        let header = Self::parse(&map)?;
        let path = path.to_owned();
        let inner = Arc::new(Inner { path, map, header });
        Ok(Self { inner })
    }

    /// Decodes the header of a whole file in memory. Pure: the entry for tests and the fuzzer.
    ///
    /// # Errors
    /// As [`open`](Self::open), but for reading.
    pub fn parse(bytes: &[u8]) -> Result<Header> {
        Header::parse(bytes)
    }

    /// Returns the path that was opened.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Returns the file's size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.inner.map.len() as u64
    }

    /// Returns the header.
    pub fn header(&self) -> &Header {
        &self.inner.header
    }

    /// Returns the metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.inner.header.metadata
    }

    /// Returns a tensor by name.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let info = self.inner.header.tensor(name)?;
        Some(self.view(info))
    }

    /// Returns all tensors in the file's order.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.inner.header.tensors.iter().map(|info| self.view(info))
    }

    /// Describes the file for listings.
    ///
    /// # Errors
    /// A metadata key that every model has is missing or of the wrong type.
    pub fn info(&self) -> Result<FileInfo> {
        self.inner.header.info()
    }

    fn view<'a>(&'a self, info: &'a TensorInfo) -> TensorView<'a> {
        TensorView {
            name: &info.name,
            shape: &info.shape,
            ty: info.ty,
            data: &self.inner.map[info.start..info.end],
            map: Some(&self.inner.map),
        }
    }
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gguf")
            .field("path", &self.inner.path)
            .field("size_bytes", &self.size_bytes())
            .field("tensors", &self.inner.header.tensors.len())
            .finish_non_exhaustive()
    }
}

impl<'a> TensorView<'a> {
    /// A tensor that is in memory, not in a file.
    pub fn new(name: &'a str, shape: &'a [u64], ty: TensorType, data: &'a [u8]) -> Self {
        Self {
            name,
            shape,
            ty,
            data,
            map: None,
        }
    }

    /// Gives back the memory that a part of `data` takes while it is read, if it is a file's and
    /// the system can do that. Touched again, it comes from the file again.
    ///
    /// # Panics
    /// If the part reaches past the end.
    pub fn release(&self, part: Range<usize>) {
        let data = &self.data[part];
        #[cfg(unix)]
        if let Some(map) = self.map {
            use memmap2::UncheckedAdvice::DontNeed;
            let offset = data.as_ptr() as usize - map.as_ptr() as usize;
            #[expect(
                unsafe_code,
                reason = "dropping pages can lose data where there are changes"
            )]
            // SAFETY: a mapping of a file that is never written through holds nothing that the file
            // does not: whoever still reads these pages gets the same bytes.
            let advised = unsafe { map.unchecked_advise_range(DontNeed, offset, data.len()) };
            if let Err(error) = advised {
                tracing::debug!(%error, "a tensor's pages stay in memory");
            }
        }
        #[cfg(not(unix))]
        let _ = (data, self.map);
    }

    /// Returns the number of elements.
    pub fn elements(&self) -> usize {
        self.data.len() / self.ty.block_bytes() * self.ty.block_len()
    }
}

impl Header {
    /// Decodes the header of a whole file; see [`Gguf::parse`].
    fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let version = read_version(&mut reader)?;
        let tensor_count = reader.count(
            limits::TENSOR_COUNT_MAX,
            limits::TENSOR_ENTRY_BYTES_MIN,
            "the tensor count",
        )?;
        let metadata_count = reader.count(
            limits::METADATA_COUNT_MAX,
            limits::METADATA_ENTRY_BYTES_MIN,
            "the metadata count",
        )?;
        let metadata = Metadata::read(&mut reader, metadata_count)?;
        refuse_parts(&metadata)?;
        let alignment = alignment(&metadata)?;
        // The entries are at least 33 bytes each, and each was read: no more memory than that.
        let mut raw_tensors = Vec::new();
        for _ in 0..tensor_count {
            raw_tensors.push(RawTensor::read(&mut reader)?);
        }
        let place = DataPlace {
            data_start: (reader.position() as u64).next_multiple_of(alignment.into()),
            file_bytes: bytes.len() as u64,
            alignment,
        };
        let mut header = Self {
            version,
            metadata,
            tensors: Vec::with_capacity(raw_tensors.len()),
            index_by_name: HashMap::with_capacity(raw_tensors.len()),
        };
        let mut elements_total = 0_u64;
        for raw in raw_tensors {
            let info = raw.locate(&place)?;
            elements_total = elements_total
                .checked_add(info.elements)
                .ok_or_else(|| invalid("the number of weights overflows"))?;
            header.push(info)?;
        }
        Ok(header)
    }

    /// Returns the format's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Returns the metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Returns the table of tensors, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Returns a tensor's entry by name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let index = self.index_by_name.get(name)?;
        self.tensors.get(*index)
    }

    /// Describes the file for listings; see [`Gguf::info`].
    ///
    /// # Errors
    /// A metadata key that every model has is missing or of the wrong type.
    pub fn info(&self) -> Result<FileInfo> {
        FileInfo::of(self)
    }

    fn push(&mut self, info: TensorInfo) -> Result<()> {
        let index = self.tensors.len();
        if self
            .index_by_name
            .insert(info.name.clone(), index)
            .is_some()
        {
            return Err(invalid(format!("tensor {:?} appears twice", info.name)));
        }
        self.tensors.push(info);
        Ok(())
    }
}

/// Makes the error for a malformed file.
fn invalid(message: impl Into<String>) -> Error {
    Error::InvalidGguf {
        message: message.into(),
    }
}

fn read_version(reader: &mut Reader<'_>) -> Result<u32> {
    if reader.take(MAGIC.len(), "the magic bytes")? != MAGIC {
        return Err(invalid(
            "the file does not begin with GGUF; it is another format",
        ));
    }
    let version = reader.u32("the version")?;
    let unsupported = |message: String| Err(Error::UnsupportedModel { message });
    match version {
        2 | 3 => Ok(version),
        1 => unsupported("GGUF version 1; convert the model again with a current llama.cpp".into()),
        _ if matches!(version.swap_bytes(), 1..=3) => {
            unsupported("big-endian GGUF; convert the file to little endian".into())
        }
        _ => unsupported(format!("GGUF version {version}; versions 2 and 3 are read")),
    }
}

fn refuse_parts(metadata: &Metadata) -> Result<()> {
    match metadata.u32("split.count")? {
        Some(count) if count > 1 => Err(Error::UnsupportedModel {
            message: format!(
                "the model is split into {count} files; merge them with llama-gguf-split --merge"
            ),
        }),
        _ => Ok(()),
    }
}

fn alignment(metadata: &Metadata) -> Result<u32> {
    let key = "general.alignment";
    let alignment = metadata.u32(key)?.unwrap_or(limits::ALIGNMENT_DEFAULT);
    let bounds = limits::ALIGNMENT_MIN..=limits::ALIGNMENT_MAX;
    if !alignment.is_power_of_two() || !bounds.contains(&alignment) {
        return Err(invalid(format!(
            "{key} is {alignment}, must be a power of two from {} to {}",
            limits::ALIGNMENT_MIN,
            limits::ALIGNMENT_MAX
        )));
    }
    Ok(alignment)
}
