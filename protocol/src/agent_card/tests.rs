//! Tests of a card as a whole.
