//! Where this node may connect to on behalf of others.
//!
//! While it listens on loopback alone, its users are on this machine and may name any address; else
//! addresses of this machine and of private networks are refused, both as they are written and as
//! names resolve, at each connection: a name that resolves to something else later gets no further.

use std::{
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
        let is_local_name = host.eq_ignore_ascii_case("localhost");
        let may = self == Self::Any || address.map_or(!is_local_name, is_public);
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
                return Err("the name has no public address".into());
            }
            let addresses: Addrs = Box::new(public.into_iter());
            Ok(addresses)
        })
    }
}

/// Returns whether an address is of the public internet.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let is_shared = a == 100 && (64..128).contains(&b);
            let is_special = a == 0 || a >= 240 || (a, b, c) == (192, 0, 0);
            let is_benchmark = a == 198 && (18..20).contains(&b);
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_documentation()
                || is_shared
                || is_special
                || is_benchmark)
        }
        IpAddr::V6(v6) => {
            // Of 2000::/3 without what stands for IPv4 addresses or for documents.
            let [first, second, ..] = v6.segments();
            let is_global = first & 0xe000 == 0x2000;
            let is_translated = first == 0x2002 || (first == 0x2001 && second == 0);
            is_global && !is_translated && (first, second) != (0x2001, 0xdb8)
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
            "::1",
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
        for address in ["1.1.1.1", "100.128.0.1", "2606:4700::1111"] {
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
        ] {
            assert!(public.check(url).is_err(), "{url}");
            assert!(Targets::Any.check(url).is_ok(), "{url}");
        }
        assert!(public.check("https://agents.example.org:8443/a").is_ok());
    }
}
