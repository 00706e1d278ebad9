//! Where this node may connect to on behalf of others.
//!
//! While it listens on loopback alone, its users are on this machine and may name any address; else
//! addresses of this machine and of private networks are refused, both as they are written and as
//! names resolve, at each connection: a name that resolves to something else later gets no further.

use std::{
    error::Error,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Which addresses may be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Targets {
    /// All of them.
    Any,
    /// Those that are everybody's: not this machine's and no private network's.
    Public,
}

impl Targets {
    /// Checks an address as it is written.
    ///
    /// # Errors
    /// Words for whoever wrote it.
    pub fn check(self, url: &str) -> Result<(), String> {
        let url = reqwest::Url::parse(url).map_err(|error| error.to_string())?;
        let host = url.host_str().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse();
        let may = self == Self::Any || address.map_or(!is_local_name(host), is_public);
        if may {
            return Ok(());
        }
        Err("must not lie on this machine or in a private network: this node serves others".into())
    }

    /// Returns a client that connects to such addresses alone and goes through no proxy, to be set
    /// up further. Whoever uses it must [`check`](Self::check) each URL, since what is written as a
    /// number is not resolved, and follow redirects by hand, if at all.
    pub fn client(self) -> reqwest::ClientBuilder {
        // Whoever was first chose the same; which of them it was does not matter.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        match self {
            Self::Any => client,
            Self::Public => client.dns_resolver(Arc::new(PublicOnly)),
        }
    }
}

/// Resolves names to public addresses alone.
#[derive(Debug)]
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|a| is_public(a.ip())).collect();
            if public.is_empty() {
                return Err(NoPublicAddress.into());
            }
            let addresses: Addrs = Box::new(public.into_iter());
            Ok(addresses)
        })
    }
}

/// A name that stands for nothing outside.
#[derive(Debug, thiserror::Error)]
#[error("the name has no public address")]
struct NoPublicAddress;

/// Returns whether a request failed because the name led nowhere but to this machine or into a
/// private network.
pub fn has_no_public_address(error: &reqwest::Error) -> bool {
    let mut cause: Option<&dyn Error> = error.source();
    while let Some(error) = cause {
        if error.is::<NoPublicAddress>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Returns whether a name is this machine's by definition (RFC 6761, 6.3): some resolvers answer
/// for it by themselves.
fn is_local_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost")
}

/// Returns whether an address is of the public internet.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let is_shared = a == 100 && (64..128).contains(&b);
            let is_special = a == 0 || a >= 240 || (a, b, c) == (192, 0, 0);
            let is_benchmark = a == 198 && (18..20).contains(&b);
            // Once led from one version of the protocol to the other, by whoever was nearest.
            let is_relay = (a, b, c) == (192, 88, 99);
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_documentation()
                || is_shared
                || is_special
                || is_relay
                || is_benchmark)
        }
        IpAddr::V6(v6) => {
            // Of 2000::/3 without what stands for IPv4 addresses, for documents or for protocols.
            let [first, second, ..] = v6.segments();
            let is_global = first & 0xe000 == 0x2000;
            let is_translated = first == 0x2002;
            // Teredo, benchmarks and hashes that look like addresses among them.
            let is_protocols = first == 0x2001 && second < 0x200;
            let is_document =
                (first, second) == (0x2001, 0xdb8) || (first == 0x3fff && second < 0x1000);
            is_global && !is_translated && !is_protocols && !is_document
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_and_of_private_networks_are_not_public() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.88.99.1",
            "192.0.0.8",
            "0.1.2.3",
            "::1",
            "::7f00:1",
            "::ffff:0:127.0.0.1",
            "64:ff9b:1::a00:1",
            "2001::1",
            "2001:2::1",
            "2001:20::1",
            "3fff::1",
            "5f00::1",
            "fe80::1",
            "fc00::1",
            "::ffff:10.0.0.1",
            "2002:a00:1::",
            "64:ff9b::a00:1",
            "2001:db8::1",
            "ff02::1",
            "::",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "1.1.1.1",
            "100.128.0.1",
            "2606:4700::1111",
            "2001:4860:4860::8888",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_node_that_serves_others_asks_public_addresses_only() {
        let public = Targets::Public;
        for url in [
            "http://localhost:1/",
            "http://LOCALHOST/",
            "http://127.0.0.1/",
            "http://[::1]:9/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://10.0.0.1",
            "http://[::ffff:7f00:1]/",
            "http://localhost./",
            "http://a.localhost/",
            "http://a.LocalHost.:80/",
            "http://127.1/",
            "http://127.0.0.1./",
            "http://0177.0.0.1/",
            "http://0/",
            "http://%31%32%37.0.0.1/",
            "http://\u{2460}\u{2461}\u{2466}.0.0.1/",
            "http://\u{ff4c}ocalhost/",
            "http://[0:0:0:0:0:0:0:1]/",
            "http://[64:ff9b::7f00:1]/",
        ] {
            assert!(public.check(url).is_err(), "{url}");
            assert!(Targets::Any.check(url).is_ok(), "{url}");
        }
        assert!(public.check("https://agents.example.org:8443/a").is_ok());
        assert!(public.check("https://localhost.example.org/").is_ok());
        assert!(public.check("https://mylocalhost/").is_ok());
    }

    #[tokio::test]
    async fn a_name_that_stands_for_this_machine_is_not_connected_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = Targets::Public.client().build().unwrap();
        // As if the name had passed: what it stands for is looked at again.
        let asked = client.get(format!("http://localhost:{port}/")).send().await;
        let error = asked.unwrap_err();
        assert!(has_no_public_address(&error), "{error:?}");
        assert!(listener.accept().is_err(), "there was a connection");
        let client = Targets::Any.client().build().unwrap();
        let refused = client.get("http://127.0.0.1:1/").send().await;
        assert!(!has_no_public_address(&refused.unwrap_err()));
    }
}
