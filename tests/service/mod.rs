//! The real program as service managers run it: what it is given and tells (`systemd.rs`), what it may not do
//! (`sandbox.rs`), and what it logs (`log.rs`).

mod log;
mod sandbox;
mod systemd;
