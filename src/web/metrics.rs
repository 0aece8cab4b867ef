//! Figures for programs that draw curves of them and watch over them, in the
//! [text format](https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format) of Prometheus.
//!
//! Only what is known without a search, since it is asked for every few seconds. No figure is about a single user or
//! room.

use std::{
    fmt::{Display, Write},
    sync::atomic::Ordering,
};

use http::{HeaderValue, Response, header};

use crate::{
    error::Result,
    http::{Body, PageRequest},
    server::Server,
    store::{Direction, trees::UNREACHED_SERVERS},
};

/// `GET /metrics`, at an address of its own (`metrics.address`).
pub async fn show_metrics(server: &Server, _: PageRequest) -> Result<Response<Body>> {
    let mut response = Response::new(Body::full(text(server)?));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

fn text(server: &Server) -> Result<String> {
    let read = server.store.read();
    let unreached = UNREACHED_SERVERS.scan(&read, (), Direction::Forward).count();
    let mut figures = Figures::default();
    figures.add("conduit_info", "gauge", "What runs.", [(label("version", env!("CARGO_PKG_VERSION")), 1)]);
    figures.one("conduit_uptime_seconds", "gauge", "Since the start.", server.started.elapsed().as_secs());
    let answered = server.answered.iter().zip(1..);
    let answered =
        answered.map(|(count, class)| (label("status", format!("{class}xx")), count.load(Ordering::Relaxed)));
    figures.add("conduit_requests_total", "counter", "Answers, by the class of their status.", answered);
    let position = read.position()?.0;
    figures.one("conduit_stream_position", "counter", "What happened: grows by one or more each time.", position);
    figures.one("conduit_waiting_clients", "gauge", "Clients that wait for news.", server.store.hub().len());
    figures.one(
        "conduit_unreached_servers",
        "gauge",
        "Servers that are behind, as they could not be reached.",
        unreached,
    );
    let parts = |parts: Vec<(&'static str, u64)>| parts.into_iter().map(|(part, bytes)| (label("part", part), bytes));
    figures.add("conduit_memory_bytes", "gauge", "Caches and the like.", parts(server.memory()?));
    figures.one("conduit_memory_budget_bytes", "gauge", "What they may take.", server.config().memory_budget());
    figures.add("conduit_disk_bytes", "gauge", "The database's files, by family.", parts(server.store.disk_usage()?));
    if let Some(resident) = server.resident_bytes() {
        figures.one("process_resident_memory_bytes", "gauge", "The memory of the process.", resident);
    }
    Ok(figures.0)
}

fn label(name: &str, value: impl Display) -> String {
    format!("{{{name}=\"{value}\"}}")
}

/// The text as it grows.
#[derive(Default)]
struct Figures(String);

impl Figures {
    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.add(name, kind, help, [(String::new(), value)]);
    }

    /// A figure with its values; each has labels, which may be none.
    fn add<V: Display>(&mut self, name: &str, kind: &str, help: &str, values: impl IntoIterator<Item = (String, V)>) {
        // Writing into a text does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }
}
