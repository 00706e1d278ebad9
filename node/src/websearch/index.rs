//! The index of folders: `DIR/search-index/`, made of files that are there anyway.
//!
//! A refresh goes through the folders and compares what it finds with the stamps of what was
//! indexed, which lie beside the index. They are written after it, so that a crash between the two
//! has some files indexed again and none forgotten. What cannot be opened, or was written by
//! another version, is thrown away and made anew.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use tantivy::{
    Index, IndexReader, IndexWriter, ReloadPolicy, TantivyDocument, Term,
    collector::TopDocs,
    indexer::IndexWriterOptions,
    query::{BooleanQuery, BoostQuery, Occur, Query, TermQuery},
    schema::{
        Field, IndexRecordOption, STORED, STRING, Schema, TextFieldIndexing, TextOptions, Value,
    },
};

use super::{
    CONTENT_CHARS_MAX, Hit, SearchError, cut,
    folders::{self, Folder, Stamps},
    snippet::snippet,
    words::{spaced, words_of_query},
};
use crate::files;

/// What is written in the folder: with another number it is made anew.
const VERSION: u32 = 1;
/// What takes words apart that have blanks between them.
const BETWEEN_BLANKS: &str = "whitespace";
/// Memory for what is being indexed; the library's least.
const WRITER_BYTES: usize = 15_000_000;
/// Files after which what was indexed can be found.
const COMMIT_FILES: usize = 2_000;
/// The file of stamps: a path and two numbers for each file.
const STAMPS_BYTES_MAX: u64 = 256 << 20;
/// How much more a word counts in a title, and in the path of a file.
const TITLE_BOOST: f32 = 3.0;
const NAME_BOOST: f32 = 2.0;

/// An index of folders.
#[derive(Debug)]
pub struct FolderIndex {
    path: PathBuf,
    folders: Vec<Folder>,
    /// Held while it is refreshed; `None` until it was opened.
    known: Mutex<Option<Stamps>>,
    loaded: RwLock<Option<Loaded>>,
    is_built: AtomicBool,
}

/// What a refresh has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// Files that are searched now, and those that were found to be no texts.
    pub files: usize,
    /// Files that were read.
    pub read: usize,
    /// Files that are gone.
    pub gone: usize,
}

/// An open index.
#[derive(Clone)]
struct Loaded {
    index: Index,
    reader: IndexReader,
    fields: Fields,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy)]
struct Fields {
    /// `FOLDER/path`, whole: by it a file is found again.
    path: Field,
    /// The same, by its words.
    name: Field,
    /// The words of its title.
    title: Field,
    /// The words of its text.
    body: Field,
    /// The title as it is shown.
    shown_title: Field,
    /// The text as it is shown.
    text: Field,
}

/// What lies beside the index.
#[derive(Debug, Default, Serialize, Deserialize)]
struct StampFile {
    version: u32,
    stamps: Stamps,
}

impl FolderIndex {
    /// Makes an index of folders that is kept in a folder of its own. Nothing is opened yet.
    pub fn new(path: &Path, folders: &[PathBuf]) -> Self {
        Self {
            path: path.to_owned(),
            folders: folders
                .iter()
                .filter_map(|path| Folder::new(path))
                .collect(),
            known: Mutex::new(None),
            loaded: RwLock::new(None),
            is_built: AtomicBool::new(false),
        }
    }

    /// Returns whether the folders were gone through to their end since the start.
    pub fn is_built(&self) -> bool {
        self.is_built.load(Ordering::Acquire)
    }

    /// Brings the index to what the folders hold now, unless it is told to stop.
    ///
    /// # Errors
    /// It cannot be written. The next refresh opens it again.
    pub fn refresh(&self, stop: &AtomicBool) -> Result<Refreshed, SearchError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Whatever happens to this refresh, the next one knows what is on the disk.
        let stamps = match known.take() {
            Some(stamps) => stamps,
            None => self.open()?,
        };
        let mut found = BTreeMap::new();
        for folder in &self.folders {
            if !folder.walk(&mut found, stop) {
                *known = Some(stamps);
                return Ok(Refreshed::default());
            }
        }
        let (stamps, refreshed) = self.apply(stamps, found, stop)?;
        *known = Some(stamps);
        if !stop.load(Ordering::Relaxed) {
            self.is_built.store(true, Ordering::Release);
        }
        Ok(refreshed)
    }

    /// Finds files by their words, the best first.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn search(
        &self,
        query: &str,
        limit: usize,
        with_content: bool,
    ) -> Result<Vec<Hit>, SearchError> {
        let Some(loaded) = self.loaded() else {
            return Ok(Vec::new());
        };
        let words = words_of_query(query);
        if words.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        let searcher = loaded.reader.searcher();
        let top = TopDocs::with_limit(limit).order_by_score();
        let found = searcher.search(&loaded.fields.query(&words), &top)?;
        let mut hits = Vec::new();
        for (_, address) in found {
            let document: TantivyDocument = searcher.doc(address)?;
            let text = |field| {
                let value = document.get_first(field);
                value.and_then(|value| value.as_str()).unwrap_or_default()
            };
            let body = text(loaded.fields.text);
            hits.push(Hit {
                title: text(loaded.fields.shown_title).to_owned(),
                url: format!("local:{}", text(loaded.fields.path)),
                snippet: snippet(body, &words),
                content: with_content.then(|| cut(body, CONTENT_CHARS_MAX).to_owned()),
            });
        }
        Ok(hits)
    }

    fn index_path(&self) -> PathBuf {
        self.path.join("index")
    }

    fn stamps_path(&self) -> PathBuf {
        self.path.join("stamps")
    }

    /// Opens what is there, or makes it anew, and returns what was indexed.
    fn open(&self) -> Result<Stamps, SearchError> {
        match self.open_existing() {
            Ok(Some(stamps)) => return Ok(stamps),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the index of the folders is made anew");
            }
        }
        self.set_loaded(None);
        let io =
            |error: std::io::Error| SearchError::Index(format!("{}: {error}", self.path.display()));
        match fs::remove_dir_all(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        fs::create_dir_all(self.index_path()).map_err(io)?;
        let (schema, _) = schema();
        let index = Index::create_in_dir(self.index_path(), schema)?;
        self.load(index)?;
        Ok(Stamps::new())
    }

    /// Opens what is there; `None` where there is nothing, or it is of another version.
    fn open_existing(&self) -> Result<Option<Stamps>, SearchError> {
        let stamps = files::read_bounded(&self.stamps_path(), STAMPS_BYTES_MAX);
        let Some(bytes) = stamps.map_err(|error| SearchError::Index(error.to_string()))? else {
            return Ok(None);
        };
        let file: StampFile = postcard::from_bytes(&bytes)
            .map_err(|error| SearchError::Index(format!("the stamps: {error}")))?;
        let index = Index::open_in_dir(self.index_path())?;
        if file.version != VERSION || index.schema() != schema().0 {
            return Ok(None);
        }
        let damaged = index.validate_checksum()?;
        if let Some(path) = damaged.iter().next() {
            return Err(SearchError::Index(format!("{} is damaged", path.display())));
        }
        self.load(index)?;
        Ok(Some(file.stamps))
    }

    fn load(&self, index: Index) -> Result<(), SearchError> {
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual);
        let reader = reader.try_into()?;
        let (_, fields) = schema();
        self.set_loaded(Some(Loaded {
            index,
            reader,
            fields,
        }));
        Ok(())
    }

    fn loaded(&self) -> Option<Loaded> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.clone()
    }

    fn set_loaded(&self, loaded: Option<Loaded>) {
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
    }

    /// Indexes what is different, and returns what is indexed then.
    fn apply(
        &self,
        mut stamps: Stamps,
        found: Stamps,
        stop: &AtomicBool,
    ) -> Result<(Stamps, Refreshed), SearchError> {
        let gone: Vec<_> = stamps
            .keys()
            .filter(|path| !found.contains_key(*path))
            .cloned()
            .collect();
        let changed: Vec<_> = found
            .iter()
            .filter(|(path, stamp)| stamps.get(*path) != Some(*stamp))
            .collect();
        let mut refreshed = Refreshed {
            files: found.len(),
            read: 0,
            gone: gone.len(),
        };
        if gone.is_empty() && changed.is_empty() && self.stamps_path().is_file() {
            return Ok((stamps, refreshed));
        }
        let loaded = self.loaded();
        let loaded = loaded.ok_or_else(|| SearchError::Index("it is not open".to_owned()))?;
        let mut writer = loaded.writer()?;
        for path in &gone {
            writer.delete_term(Term::from_field_text(loaded.fields.path, path));
            stamps.remove(path);
        }
        let mut open = OpenFolders::default();
        for (path, stamp) in changed {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            writer.delete_term(Term::from_field_text(loaded.fields.path, path));
            if let Some(file) = open.read(&self.folders, path) {
                writer.add_document(loaded.fields.document(path, file))?;
            }
            // What is no text is not read again until it changes.
            stamps.insert(path.clone(), *stamp);
            refreshed.read += 1;
            if refreshed.read.is_multiple_of(COMMIT_FILES) {
                self.commit(&loaded, &mut writer, &stamps)?;
            }
        }
        self.commit(&loaded, &mut writer, &stamps)?;
        writer.wait_merging_threads()?;
        Ok((stamps, refreshed))
    }

    fn commit(
        &self,
        loaded: &Loaded,
        writer: &mut IndexWriter,
        stamps: &Stamps,
    ) -> Result<(), SearchError> {
        writer.commit()?;
        let file = StampFile {
            version: VERSION,
            stamps: stamps.clone(),
        };
        let bytes = postcard::to_allocvec(&file);
        let bytes = bytes.map_err(|error| SearchError::Index(error.to_string()))?;
        let written = files::write_atomic(&self.stamps_path(), &bytes);
        written.map_err(|error| SearchError::Index(error.to_string()))?;
        Ok(loaded.reader.reload()?)
    }
}

/// The folders that files were read of, each opened once.
#[derive(Default)]
struct OpenFolders(BTreeMap<usize, cap_std::fs::Dir>);

impl OpenFolders {
    fn read(&mut self, folders: &[Folder], path: &str) -> Option<super::TextFile> {
        let below = |folder: &Folder| folder.below(path).map(str::to_owned);
        let mut of_path = folders.iter().enumerate();
        let (number, inner) = of_path.find_map(|(n, f)| Some((n, below(f)?)))?;
        if let std::collections::btree_map::Entry::Vacant(place) = self.0.entry(number) {
            place.insert(folders[number].open().ok()?);
        }
        folders::read(self.0.get(&number)?, &inner)
    }
}

impl Loaded {
    fn writer(&self) -> Result<IndexWriter, SearchError> {
        let options = IndexWriterOptions::builder()
            .num_worker_threads(1)
            .num_merge_threads(1)
            .memory_budget_per_thread(WRITER_BYTES)
            .build();
        Ok(self.index.writer_with_options(options)?)
    }
}

impl Fields {
    fn document(self, path: &str, file: super::TextFile) -> TantivyDocument {
        let mut document = TantivyDocument::new();
        document.add_text(self.path, path);
        document.add_text(self.name, spaced(path));
        document.add_text(self.title, spaced(&file.title));
        document.add_text(self.body, spaced(&file.body));
        document.add_text(self.shown_title, file.title);
        document.add_text(self.text, file.body);
        document
    }

    /// Any of the words, in any field.
    fn query(self, words: &[String]) -> BooleanQuery {
        let fields = [
            (self.title, TITLE_BOOST),
            (self.name, NAME_BOOST),
            (self.body, 1.0),
        ];
        let mut queries: Vec<(Occur, Box<dyn Query>)> = Vec::new();
        for word in words {
            for (field, boost) in fields {
                let term = Term::from_field_text(field, word);
                let query = Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs));
                queries.push((Occur::Should, Box::new(BoostQuery::new(query, boost))));
            }
        }
        BooleanQuery::new(queries)
    }
}

fn schema() -> (Schema, Fields) {
    let indexing = TextFieldIndexing::default()
        .set_tokenizer(BETWEEN_BLANKS)
        .set_index_option(IndexRecordOption::WithFreqs);
    let words = TextOptions::default().set_indexing_options(indexing);
    let mut schema = Schema::builder();
    let fields = Fields {
        path: schema.add_text_field("path", STRING | STORED),
        name: schema.add_text_field("name", words.clone()),
        title: schema.add_text_field("title", words.clone()),
        body: schema.add_text_field("body", words),
        shown_title: schema.add_text_field("shown_title", STORED),
        text: schema.add_text_field("text", STORED),
    };
    (schema.build(), fields)
}
