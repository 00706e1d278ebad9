//! Where a node of an invite is reached: a multiaddr of the few forms that such a node has.
//!
//! ```text
//! address   = host transport ["/p2p/" relay "/p2p-circuit"] "/p2p/" peer
//! host      = "/ip4/" v4 | "/ip6/" v6 | "/dns/" name | "/dns4/" name | "/dns6/" name
//! transport = "/udp/" port "/quic-v1" | "/tcp/" port
//! ```
//!
//! The peer id is part of it: whoever answers there proves that it is the node that was meant. A
//! text is read strictly and kept as it is; what dials it has a parser of its own.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::{fmt, str::FromStr};

use crate::{NodeId, limits};

/// Longest name of the domain name system, and longest label of one.
const DNS_NAME_BYTES_MAX: usize = 253;
const DNS_LABEL_BYTES_MAX: usize = 63;

/// An address with its peer's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapAddress {
    /// All before the last `/p2p/`.
    way: String,
    peer: NodeId,
}

/// Why a text is no such address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAddress {
    /// Longer than any.
    #[error("must be at most {} bytes", limits::ADDRESS_BYTES_MAX)]
    TooLong,
    /// No host that can be dialled.
    #[error("must begin with an address or name that can be dialled, as /ip4/192.0.2.7")]
    Host,
    /// No transport.
    #[error("must go on with a transport, as /udp/4200/quic-v1 or /tcp/4200")]
    Transport,
    /// It does not say who answers there.
    #[error("must end with the peer's id, as /p2p/12D3KooW…")]
    Peer,
}

impl BootstrapAddress {
    /// Puts an address together.
    ///
    /// # Errors
    /// When the way is not one of the forms above, without the last `/p2p/`.
    pub fn new(way: &str, peer: NodeId) -> Result<Self, InvalidAddress> {
        if way.len() > limits::ADDRESS_BYTES_MAX {
            return Err(InvalidAddress::TooLong);
        }
        check_way(way)?;
        Ok(Self {
            way: way.to_owned(),
            peer,
        })
    }

    /// Returns all before the last `/p2p/`.
    pub fn way(&self) -> &str {
        &self.way
    }

    /// Returns who answers there.
    pub fn peer(&self) -> &NodeId {
        &self.peer
    }
}

impl FromStr for BootstrapAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if text.len() > limits::ADDRESS_BYTES_MAX {
            return Err(InvalidAddress::TooLong);
        }
        let (way, peer) = text.rsplit_once("/p2p/").ok_or(InvalidAddress::Peer)?;
        let peer = peer.parse().map_err(|_| InvalidAddress::Peer)?;
        Self::new(way, peer)
    }
}

impl fmt::Display for BootstrapAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/p2p/{}", self.way, self.peer)
    }
}

fn check_way(way: &str) -> Result<(), InvalidAddress> {
    let mut parts = way.split('/');
    // A leading slash leaves an empty part.
    let host = (parts.next(), parts.next(), parts.next());
    if !matches!(host, (Some(""), Some(kind), Some(name)) if host_fits(kind, name)) {
        return Err(InvalidAddress::Host);
    }
    let transport_fits = match (parts.next(), parts.next()) {
        (Some("udp"), Some(port)) => port_fits(port) && parts.next() == Some("quic-v1"),
        (Some("tcp"), Some(port)) => port_fits(port),
        _ => false,
    };
    if !transport_fits {
        return Err(InvalidAddress::Transport);
    }
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (None, ..) => Ok(()),
        (Some("p2p"), Some(relay), Some("p2p-circuit"), None) if is_peer(relay) => Ok(()),
        _ => Err(InvalidAddress::Peer),
    }
}

fn host_fits(kind: &str, host: &str) -> bool {
    match kind {
        "ip4" => host
            .parse::<Ipv4Addr>()
            .is_ok_and(|ip| !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast()),
        "ip6" => host
            .parse::<Ipv6Addr>()
            .is_ok_and(|ip| !ip.is_unspecified() && !ip.is_multicast()),
        "dns" | "dns4" | "dns6" => name_fits(host),
        _ => false,
    }
}

fn name_fits(name: &str) -> bool {
    let label_fits = |label: &str| {
        (1..=DNS_LABEL_BYTES_MAX).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= DNS_NAME_BYTES_MAX && name.split('.').all(label_fits)
}

/// A port that can be dialled, in the one way to write it.
fn port_fits(port: &str) -> bool {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    digits && !port.starts_with('0') && port.parse::<u16>().is_ok()
}

fn is_peer(text: &str) -> bool {
    text.parse::<NodeId>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";
    const RELAY: &str = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq";

    #[test]
    fn addresses_of_every_form_are_read_and_written() {
        let ways = [
            "/ip4/127.0.0.1/udp/4200/quic-v1".to_owned(),
            "/ip4/192.0.2.7/tcp/1".to_owned(),
            "/ip6/2001:db8::7/udp/65535/quic-v1".to_owned(),
            "/dns4/node-1.example.org/tcp/4200".to_owned(),
            format!("/dns/relay.example.org/udp/4200/quic-v1/p2p/{RELAY}/p2p-circuit"),
        ];
        for way in ways {
            let text = format!("{way}/p2p/{PEER}");
            let address: BootstrapAddress = text.parse().unwrap();
            assert_eq!((address.way(), address.to_string()), (&*way, text.clone()));
            assert_eq!(address.peer().to_string(), PEER);
        }
    }

    #[test]
    fn what_cannot_be_dialled_is_refused() {
        let cases = [
            ("ip4/192.0.2.7/tcp/1", InvalidAddress::Host),
            ("/ip4/0.0.0.0/tcp/1", InvalidAddress::Host),
            ("/ip4/224.0.0.1/tcp/1", InvalidAddress::Host),
            ("/ip4/192.0.2.07/tcp/1", InvalidAddress::Host),
            ("/ip6/::/tcp/1", InvalidAddress::Host),
            ("/ip6/fe80::1%eth0/tcp/1", InvalidAddress::Host),
            ("/dns/-a.example/tcp/1", InvalidAddress::Host),
            ("/dns/a..example/tcp/1", InvalidAddress::Host),
            ("/dns/a b/tcp/1", InvalidAddress::Host),
            ("/unix/a/tcp/1", InvalidAddress::Host),
            ("/ip4/192.0.2.7", InvalidAddress::Transport),
            ("/ip4/192.0.2.7/tcp/0", InvalidAddress::Transport),
            ("/ip4/192.0.2.7/tcp/01", InvalidAddress::Transport),
            ("/ip4/192.0.2.7/tcp/+1", InvalidAddress::Transport),
            ("/ip4/192.0.2.7/tcp/65536", InvalidAddress::Transport),
            ("/ip4/192.0.2.7/udp/1", InvalidAddress::Transport),
            ("/ip4/192.0.2.7/udp/1/quic", InvalidAddress::Transport),
            ("/ip4/192.0.2.7/tcp/1/ws", InvalidAddress::Peer),
            ("/ip4/192.0.2.7/tcp/1/", InvalidAddress::Peer),
            ("/ip4/192.0.2.7/tcp/1/p2p-circuit", InvalidAddress::Peer),
        ];
        for (way, expected) in cases {
            let text = format!("{way}/p2p/{PEER}");
            assert_eq!(text.parse::<BootstrapAddress>(), Err(expected), "{way}");
        }
        for text in ["", "/ip4/192.0.2.7/tcp/1", "/ip4/192.0.2.7/tcp/1/p2p/me"] {
            let refused = text.parse::<BootstrapAddress>();
            assert_eq!(refused, Err(InvalidAddress::Peer), "{text}");
        }
        let long = format!("/dns/{}/tcp/1/p2p/{PEER}", "a.".repeat(500));
        assert_eq!(
            long.parse::<BootstrapAddress>(),
            Err(InvalidAddress::TooLong)
        );
    }
}
