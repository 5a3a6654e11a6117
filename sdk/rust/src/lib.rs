//! Rust SDK of Flame.
