//! How agents fare.
