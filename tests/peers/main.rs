//! Tests with a real Synapse as the other server.
//!
//! Both servers listen on loopback behind [`front::Front`]s that speak TLS with certificates of a root made for this run;
//! they are named after the port of theirs, Synapse `localhost:40123` and ours `127.0.0.1:40124`, so that nothing has to be
//! looked up. One Synapse serves all tests but those that stop it; each test has a server of ours for itself, checked at
//! its end. What is said of two servers is said both ways where it can be ([`both_ways!`]). Nothing depends on timing:
//! [`talk::until`] waits for a condition and gives up after a generous while.
//!
//! `make test` installs Synapse into a folder of its own; see `.ci/venv`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test ends in a panic when it fails

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code)] // not all of it is used here
#[path = "../clients/device.rs"]
mod device;
mod front;
mod side;
mod synapse;
mod talk;

/// Makes two tests of each function that takes the server where the room is made, and the other one.
macro_rules! both_ways {
    ($($test:ident),* $(,)?) => {
        mod made_here { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let (ours, theirs) = crate::side::pair().await;
                super::$test(&ours, &theirs).await;
            })* }
        mod made_there { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let (ours, theirs) = crate::side::pair().await;
                super::$test(&theirs, &ours).await;
            })* }
    };
}

mod encryption;
mod invites;
mod joins;
mod keys;
mod restarts;
mod rooms;
