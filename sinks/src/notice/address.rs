//! Which addresses of the network a URL from a pipeline file may reach.
//!
//! Public ones only, unless the operator allows more by CIDR: a pipeline must not make Tidemill ask the
//! services of its own network. The check is on the addresses that are connected to: a literal address in
//! the URL by [`Allow::check_literal`], all others by [`GuardedResolver`], which gives the client only such
//! addresses as passed. Ranges: the IANA special-purpose registries of IPv4 and IPv6 (RFC 6890).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Addresses of one name that are tried; more are ignored.
const ADDRESSES_MAX: usize = 16;

/// Which addresses may be reached beside the public ones.
#[derive(Debug, Clone, Default)]
pub struct Allow {
    /// Networks of the operator's choice, such as `10.1.0.0/16`.
    pub cidrs: Vec<IpNet>,
}

/// An address that may not be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{host}` is the address {ip}, which is not public; the operator may allow its network in the settings"
)]
pub struct NotAllowed {
    /// The name or literal address asked for.
    pub host: String,
    /// The address behind it.
    pub ip: IpAddr,
}

impl Allow {
    /// Whether this address may be reached.
    pub fn allows(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        is_public(ip) || self.cidrs.iter().any(|cidr| cidr.contains(&ip))
    }

    /// Checks a URL whose host is a literal address, which no resolver gets to see.
    pub fn check_literal(&self, url: &url::Url) -> Result<(), NotAllowed> {
        let ip = match url.host() {
            Some(url::Host::Ipv4(ip)) => IpAddr::V4(ip),
            Some(url::Host::Ipv6(ip)) => IpAddr::V6(ip),
            _ => return Ok(()),
        };
        self.check(url.host_str().unwrap_or_default(), ip)
    }

    fn check(&self, host: &str, ip: IpAddr) -> Result<(), NotAllowed> {
        if self.allows(ip) { Ok(()) } else { Err(NotAllowed { host: host.to_owned(), ip }) }
    }

    /// Keeps the addresses of a name that may be reached; an error when there is none among several.
    fn keep(
        &self,
        host: &str,
        found: impl Iterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, NotAllowed> {
        let mut refused = None;
        let mut kept = Vec::new();
        for address in found.take(ADDRESSES_MAX) {
            match self.check(host, address.ip()) {
                Ok(()) => kept.push(address),
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if kept.is_empty() => Err(error),
            _ => Ok(kept),
        }
    }
}

/// Resolves names by the system and gives only addresses that are allowed.
#[derive(Debug, Clone)]
pub struct GuardedResolver {
    allow: Arc<Allow>,
}

impl GuardedResolver {
    /// A resolver for one client.
    pub fn new(allow: Allow) -> Self {
        Self { allow: Arc::new(allow) }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow = self.allow.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let kept = allow.keep(name.as_str(), found)?;
            Ok(Box::new(kept.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is reachable in the public internet.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = matches!(
        (a, b, c),
        (0 | 10 | 127 | 224.., _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 31, 196)
            | (192, 52, 193)
            | (192, 88, 99)
            | (192, 168, _)
            | (192, 175, 48)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    );
    !special
}

/// Global unicast (2000::/3) without its special parts; an address that carries an IPv4 address in it
/// (NAT64, 6to4) is as public as that one.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        [0x2001, 0x0000..=0x01ff, ..] => false,
        [0x2001, 0x0db8, ..] => false,
        [0x3fff, 0x0000..=0x0fff, ..] => false,
        [0x2000..=0x3fff, ..] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: [&str; 7] = [
        "1.1.1.1",
        "100.63.255.255",
        "172.32.0.1",
        "223.255.255.255",
        "2606:4700::1111",
        "64:ff9b::1.1.1.1",
        "2002:0101:0101::1",
    ];
    const PRIVATE: [&str; 30] = [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.2.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "fe80::1",
        "fc00::1",
        "fd12::1",
        "ff02::1",
        "64:ff9b::10.0.0.1",
        "2001:db8::1",
        "2001::1",
        "2002:7f00:0001::1",
    ];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_public_addresses_are_allowed_by_default() {
        let allow = Allow::default();
        for text in PUBLIC {
            assert!(allow.allows(ip(text)), "{text}");
        }
        for text in PRIVATE {
            assert!(!allow.allows(ip(text)), "{text}");
        }
    }

    #[test]
    fn a_cidr_of_the_settings_allows_its_network_and_no_other() {
        let allow = Allow { cidrs: vec!["10.1.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()] };
        for text in ["10.1.2.3", "::ffff:10.1.2.3", "fd00::5", "1.1.1.1"] {
            assert!(allow.allows(ip(text)), "{text}");
        }
        for text in ["10.2.0.1", "127.0.0.1", "fd00:0:0:1::5"] {
            assert!(!allow.allows(ip(text)), "{text}");
        }
    }

    #[test]
    fn a_literal_address_is_checked_in_whatever_way_it_is_written() {
        let hosts = [
            "127.0.0.1",
            "127.1",
            "0x7f.1",
            "2130706433",
            "0177.0.0.1",
            "[::1]",
            "[::ffff:7f00:1]",
            "169.254.169.254",
        ];
        for host in hosts {
            let url = url::Url::parse(&format!("http://{host}:80/x")).unwrap();
            assert!(Allow::default().check_literal(&url).is_err(), "{host}");
        }
        for host in ["1.1.1.1", "[2606:4700::1111]", "example.org"] {
            let url = url::Url::parse(&format!("https://{host}/x")).unwrap();
            assert!(Allow::default().check_literal(&url).is_ok(), "{host}");
        }
    }

    #[test]
    fn of_the_addresses_of_a_name_only_the_allowed_are_connected_to() {
        let address = |text: &str| SocketAddr::new(ip(text), 0);
        let allow = Allow::default();
        let kept = allow.keep("x", [address("10.0.0.1"), address("1.1.1.1")].into_iter()).unwrap();
        assert_eq!(kept, [address("1.1.1.1")]);
        let refused = allow.keep("x", [address("10.0.0.1")].into_iter()).unwrap_err();
        assert_eq!(refused, NotAllowed { host: "x".into(), ip: ip("10.0.0.1") });
        let many = std::iter::repeat_n(address("1.1.1.1"), 1_000);
        assert_eq!(allow.keep("x", many).unwrap().len(), ADDRESSES_MAX);
    }

    #[tokio::test]
    async fn a_name_of_this_machine_resolves_to_nothing() {
        let resolver = GuardedResolver::new(Allow::default());
        let error = resolver.resolve("localhost".parse().unwrap()).await.err().unwrap();
        assert!(error.downcast_ref::<NotAllowed>().is_some(), "{error}");
    }
}
