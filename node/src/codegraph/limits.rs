//! Every bound of the code graph, with its reason.

use std::time::Duration;

/// Largest source: hand-written files are a tenth of it, and it is what a memory value may hold.
pub const SOURCE_BYTES_MAX: usize = 1 << 20;
/// Largest graph of a file as JSON, below the largest memory value. What does not fit is left out,
/// and the graph says so.
pub const GRAPH_BYTES_MAX: usize = 900 << 10;
/// Deepest node that is looked at. Code that people write stays below a hundred.
pub const DEPTH_MAX: usize = 1_000;
/// Time for parsing a file. A megabyte of ordinary code takes a fifth of a second; what takes
/// longer makes the parser try again and again.
pub const PARSE_TIME_MAX: Duration = Duration::from_secs(4);
/// Time for reading the files of one request. Five thousand ordinary ones take a third of it.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(60);
/// Most definitions of a file.
pub const SYMBOLS_MAX: usize = 10_000;
/// Longest name, and longest chain of names before a call.
pub const NAME_BYTES_MAX: usize = 200;
/// Longest text of a row of a graph: an import may have three names.
pub const TEXT_BYTES_MAX: usize = 3 * NAME_BYTES_MAX;
/// Most definitions in which one stands. Code that people write has five.
pub const WITHIN_MAX: usize = 100;
/// Most bytes of their names.
pub const WITHIN_BYTES_MAX: usize = 2_000;
/// Longest signature and documentation that is kept of a definition.
pub const SIGNATURE_BYTES_MAX: usize = 240;
/// The same for the first lines of its documentation.
pub const DOC_BYTES_MAX: usize = 400;
/// Longest path of a file in a repository. With the repository's name it has to fit into a memory
/// key.
pub const PATH_BYTES_MAX: usize = 380;
/// Longest name of a repository.
pub const REPO_BYTES_MAX: usize = 100;
/// Most files of one request.
pub const FILES_MAX: usize = 5_000;
/// Most bytes that an archive may hold once it is unpacked.
pub const ARCHIVE_BYTES_MAX: u64 = 256 << 20;
/// Most entries of an archive, files of other kinds included.
pub const ARCHIVE_ENTRIES_MAX: usize = 50_000;
/// Most files of a repository that a query looks at.
pub const REPOSITORY_FILES_MAX: usize = 20_000;
/// Most bytes of graphs, as JSON, that a repository is put together from.
pub const REPOSITORY_BYTES_MAX: usize = 128 << 20;
/// Most work on what the names of a repository mean, counted as in the resolver. Ordinary graphs
/// take about four for each byte of their JSON; all of it takes some seconds.
pub const REPOSITORY_WORK_MAX: usize = 1 << 28;
/// Most work on the words of a repository: bytes that are read, and [`WORD_WORK`] for each word of
/// each definition.
pub const WORDS_WORK_MAX: usize = 1 << 29;
/// What a word of a definition counts, by the memory that it takes.
pub const WORD_WORK: usize = 32;
/// Most targets that an ambiguous name keeps.
pub const CANDIDATES_MAX: usize = 8;
/// Deepest relation that a query follows.
pub const QUERY_DEPTH_MAX: u32 = 8;
/// Most results of a query.
pub const RESULTS_MAX: usize = 500;
