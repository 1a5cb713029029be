//! The generated files.
