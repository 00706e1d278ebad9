//! Wire and document types.
