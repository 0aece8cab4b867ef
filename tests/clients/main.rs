//! Tests with a real client: the core of Element X (`matrix-sdk`, with encryption) against a server in this process.
//!
//! What a test says about messages, keys and rooms it says for every way to synchronise ([`device::How`]): classic
//! `/sync`, one sliding sync with everything in it, and the two sliding syncs that Element X runs side by side. Nothing
//! depends on timing: [`device::until`] waits for a condition and gives up after a generous while.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test ends in a panic when it fails

#[path = "../common/mod.rs"]
mod common;
mod device;

/// Makes a test of each function for every way to synchronise.
macro_rules! however_it_syncs {
    ($($test:ident),* $(,)?) => {
        mod classic { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(crate::device::How::Classic).await })* }
        mod sliding { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(crate::device::How::Sliding).await })* }
        mod element_x { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(crate::device::How::ElementX).await })* }
    };
}

mod account;
mod bridge;
mod encryption;
mod federation;
mod media;
mod messages;
mod proposals;
mod reconnect;
mod room_list;
mod rooms;
mod verification;
