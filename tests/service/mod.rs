//! The real program as service managers run it: what it is given and tells (`systemd.rs`), what it may not do
//! (`sandbox.rs`), what it logs (`log.rs`), how it reads its configuration again (`reload.rs`), and what it refuses
//! (`database.rs`).

mod database;
mod log;
mod reload;
mod sandbox;
mod systemd;
