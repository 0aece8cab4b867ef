//! How many connections each peer has, so that none takes all of them.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;

use super::limits::network;

/// The peers that are connected.
pub(super) struct Peers {
    most: usize,
    connections: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection of a peer, until it is dropped.
pub(super) struct Counted {
    peers: Arc<Peers>,
    network: Option<IpAddr>,
}

impl Peers {
    /// At most `most` connections for each peer.
    pub(super) fn new(most: usize) -> Self {
        Self { most, connections: Mutex::default() }
    }

    /// Counts a connection from an address; gives none if it is one too many. Those of a reverse proxy, which stands for
    /// all its clients, are not counted.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Counted> {
        if may_be_a_proxy(address) {
            return Some(Counted { peers: self.clone(), network: None });
        }
        let network = network(address);
        let mut connections = self.connections.lock();
        let count = connections.entry(network).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Counted { peers: self.clone(), network: Some(network) })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some(network) = self.network else { return };
        let mut connections = self.peers.connections.lock();
        if let Some(count) = connections.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&network);
            }
        }
    }
}

/// Whether the address is on this machine or in a private network, where reverse proxies are.
pub(super) fn may_be_a_proxy(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_has_so_many_connections_and_others_theirs() {
        let peers = Arc::new(Peers::new(2));
        let admit = |address: &str| peers.admit(address.parse().unwrap());
        let mut open = vec![admit("203.0.113.1").unwrap(), admit("203.0.113.1").unwrap()];
        assert!(admit("203.0.113.1").is_none());
        // The addresses of one IPv6 network are one peer.
        open.extend([admit("2001:db8::1").unwrap(), admit("2001:db8::2").unwrap(), admit("203.0.113.2").unwrap()]);
        assert!(admit("2001:db8::3").is_none() && admit("2001:db8:0:1::").is_some());
        let proxied: Vec<_> = (0..10).map(|_| admit("127.0.0.1").unwrap()).collect();
        open.remove(0);
        open.push(admit("203.0.113.1").unwrap());
        assert!(admit("203.0.113.1").is_none());
        drop((open, proxied));
        assert!(peers.connections.lock().is_empty());
    }
}
