//! Documents made here, honest ones and such as are made to do harm.
