//! A resolver on this machine that answers what a test wants, and only as fast as that.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_resolver::proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, SRV},
    },
};
use parking_lot::Mutex;
use tokio::net::UdpSocket;

/// The resolver. It stops with the test's runtime.
#[derive(Clone)]
pub struct Dns {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

#[derive(Default)]
struct Zone {
    records: HashMap<(String, RecordType), Vec<RData>>,
    queries: Vec<(String, RecordType)>,
    /// How many queries are answered in each 100 milliseconds; the others are dropped.
    limit: Option<usize>,
    window: Option<(Instant, usize)>,
}

impl Dns {
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let dns = Self { address: socket.local_addr().unwrap(), zone: Arc::default() };
        let zone = dns.zone.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
                let Some(answer) = zone.lock().answer(&query) else { continue };
                let _ = socket.send_to(&answer.to_vec().unwrap(), from).await;
            }
        });
        dns
    }

    /// `name` is at 127.0.0.1.
    pub fn here(&self, name: &str) {
        self.at(name, "127.0.0.1");
    }

    /// `name` is at `address`.
    pub fn at(&self, name: &str, address: &str) {
        match address.parse().unwrap() {
            IpAddr::V4(address) => self.add(name, RecordType::A, RData::A(A(address))),
            IpAddr::V6(address) => self.add(name, RecordType::AAAA, RData::AAAA(AAAA(address))),
        }
    }

    /// The service `service` (with its domain) is at `target`.
    pub fn service(&self, service: &str, priority: u16, target: &str, port: u16) {
        let target = Name::from_str(&format!("{target}.")).unwrap();
        self.add(service, RecordType::SRV, RData::SRV(SRV::new(priority, 0, port, target)));
    }

    /// Answers so many queries in each 100 milliseconds, and drops the others.
    pub fn limit(&self, limit: usize) {
        self.zone.lock().limit = Some(limit);
    }

    /// Everything that was asked.
    pub fn queries(&self) -> Vec<(String, RecordType)> {
        self.zone.lock().queries.clone()
    }

    fn add(&self, name: &str, kind: RecordType, data: RData) {
        self.zone.lock().records.entry((name.to_owned(), kind)).or_default().push(data);
    }
}

impl Zone {
    fn answer(&mut self, query: &Message) -> Option<Message> {
        let question = query.queries.first()?.clone();
        let name = question.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
        self.queries.push((name.clone(), question.query_type()));
        if let Some(limit) = self.limit {
            let window = self.window.get_or_insert_with(|| (Instant::now(), 0));
            if window.0.elapsed() > Duration::from_millis(100) {
                *window = (Instant::now(), 0);
            }
            window.1 += 1;
            if window.1 > limit {
                return None;
            }
        }
        let mut answer = Message::response(query.id, query.op_code);
        answer.metadata.message_type = MessageType::Response;
        answer.metadata.recursion_desired = true;
        answer.metadata.recursion_available = true;
        answer.add_query(question.clone());
        match self.records.get(&(name.clone(), question.query_type())) {
            Some(records) => {
                for data in records {
                    answer.add_answer(Record::from_rdata(question.name().clone(), 300, data.clone()));
                }
            }
            None if !self.records.keys().any(|(known, _)| *known == name) => {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            None => {}
        }
        Some(answer)
    }
}
