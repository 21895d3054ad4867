//! Where a connection may go (M10, X6): pure, but for the resolver at the end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Why an address or URL is refused. It never holds the URL: credentials may be in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EgressError {
    /// The URL is none for a tool server.
    #[error("its url {0}")]
    Url(&'static str),
    /// An address that no entry may reach.
    #[error("the address {0} is reserved; no tool server can be there")]
    Reserved(IpAddr),
    /// An address that only an entry that says so may reach.
    #[error(
        "the address {0} is private; set allow_private_addresses if the server is meant to be there"
    )]
    Private(IpAddr),
    /// The name has no address.
    #[error("its host has no address")]
    NoAddress,
}

/// What an entry may reach.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Egress {
    pub(crate) allow_private: bool,
}

/// The kinds of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Public,
    /// This machine, or its network.
    Private,
    /// Nothing that a tool server could be at: link-local (where clouds keep credentials),
    /// multicast, documentation, unassigned.
    Reserved,
}

impl Egress {
    /// Checks a URL before a connection is made to it: the first one, and each redirect.
    pub(crate) fn check_url(self, url: &Url) -> Result<(), EgressError> {
        match url.scheme() {
            "https" => {}
            // In the clear only inside: credentials and tools would be anybody's.
            "http" if self.allow_private => {}
            "http" => {
                return Err(EgressError::Url(
                    "must start with https: (http: is for private addresses that are allowed)",
                ));
            }
            _ => return Err(EgressError::Url("must start with https:")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EgressError::Url(
                "must not hold a user or password; use auth or headers",
            ));
        }
        if url.fragment().is_some() {
            return Err(EgressError::Url("must not have a fragment (#…)"));
        }
        match url.host() {
            None => Err(EgressError::Url("has no host")),
            Some(url::Host::Ipv4(address)) => self.check_address(address.into()),
            Some(url::Host::Ipv6(address)) => self.check_address(address.into()),
            // The resolver checks what it stands for; this name needs none.
            Some(url::Host::Domain(name)) => {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                if name == "localhost" || name.ends_with(".localhost") {
                    return self.check_address(Ipv4Addr::LOCALHOST.into());
                }
                Ok(())
            }
        }
    }

    /// Checks an address that is about to be connected to.
    pub(crate) fn check_address(self, address: IpAddr) -> Result<(), EgressError> {
        match reach(address) {
            Reach::Public => Ok(()),
            Reach::Private if self.allow_private => Ok(()),
            Reach::Private => Err(EgressError::Private(address)),
            Reach::Reserved => Err(EgressError::Reserved(address)),
        }
    }

    /// Checks all addresses of a name. One that is refused refuses the name: an answer that mixes
    /// inside and outside is an attack, or a mistake that should be seen.
    pub(crate) fn check_all(self, addresses: &[SocketAddr]) -> Result<(), EgressError> {
        if addresses.is_empty() {
            return Err(EgressError::NoAddress);
        }
        addresses
            .iter()
            .try_for_each(|address| self.check_address(address.ip()))
    }
}

fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [127, ..] | [10, ..] | [192, 168, ..] => Reach::Private,
        [172, 16..=31, ..] | [100, 64..=127, ..] => Reach::Private,
        [0, ..] | [169, 254, ..] | [224..=255, ..] => Reach::Reserved,
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 18 | 19, ..] => Reach::Reserved,
        [198, 51, 100, _] | [203, 0, 113, _] => Reach::Reserved,
        // Shared by the platforms of some clouds for their own services.
        [168, 63, 129, 16] => Reach::Reserved,
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    if let Some(inner) = embedded_v4(address) {
        return reach_v4(inner);
    }
    if address == Ipv6Addr::LOCALHOST {
        return Reach::Private;
    }
    match address.segments() {
        // The address at which a cloud keeps credentials is inside the private range.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Reach::Reserved,
        [0xfc00..=0xfdff, ..] => Reach::Private,
        // Teredo and other special purposes, documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Reach::Reserved,
        // All that is routed.
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Reserved,
    }
}

/// An IPv4 address that an IPv6 one stands for: mapped, compatible, translated (NAT64), 6to4.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(of(high, low))
        }
        [0, 0, 0, 0, 0xffff, 0, high, low] => Some(of(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(of(high, low)),
        [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

/// Resolves names for the HTTP client and checks each answer. What it gives is what is connected
/// to: nobody asks a second time, so a name cannot change its mind in between.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GuardedResolver(pub(crate) Egress);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let egress = self.0;
        Box::pin(async move {
            let addresses: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            egress.check_all(&addresses)?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTSIDE: Egress = Egress {
        allow_private: false,
    };
    const INSIDE: Egress = Egress {
        allow_private: true,
    };

    fn refused(egress: Egress, url: &str) -> bool {
        // What is no URL is refused when the entry is checked.
        Url::parse(url).is_ok_and(|url| egress.check_url(&url).is_err()) || Url::parse(url).is_err()
    }

    /// Hosts inside, in every spelling that a URL allows.
    const PRIVATE: &[&str] = &[
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "127.0.0.1",
        "127.1",
        "127.0.0.1.",
        "127.255.255.254",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "%31%32%37.0.0.1",
        "127。0。0。1",
        "①②⑦.0.0.1",
        "10.0.0.1",
        "10.255.255.255",
        "167772161",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "192.168.255.255",
        "0xc0.0xa8.0.1",
        "100.64.0.1",
        "100.127.255.255",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::ffff:10.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::a00:1]",
        "[2002:7f00:1::]",
        "[2002:c0a8:1::1]",
        "[fc00::1]",
        "[fd12:3456:789a::1]",
        "[fdff:ffff::1]",
        "[::ffff:0:10.0.0.1]",
    ];

    /// Hosts that no entry may reach, allowed or not.
    const RESERVED: &[&str] = &[
        "0.0.0.0",
        "0",
        "0.1.2.3",
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.170.2",
        "169.254.0.1",
        "168.63.129.16",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.7",
        "203.0.113.9",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::ffff:169.254.169.254]",
        "[::ffff:0.0.0.0]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "[fe80::1]",
        "[febf::1]",
        "[fec0::1]",
        "[ff02::1]",
        "[fd00:ec2::254]",
        "[2001::1]",
        "[2001:db8::1]",
        "[3fff::1]",
        "[100::1]",
        "[64:ff9b:1::1]",
        "[5f00::1]",
    ];

    const SHAPES: &[&str] = &[
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "data:text/plain,x",
        "javascript:1",
        "ws://example.com/",
        "unix:/run/docker.sock",
        "http://example.com/",
        "http://8.8.8.8/",
        "https://user@example.com/",
        "https://user:pass@example.com/",
        "https://:pass@example.com/",
        "https://example.com@127.0.0.1/",
        "https://example.com:443@10.0.0.1/",
        "https://example.com/#fragment",
        "https://",
        "https:///",
        "//example.com/",
        "example.com",
        "",
        "https://exa mple.com/",
        "https://[::1/",
        "https://1.2.3.4.5.6.300/",
        "https://example.com:99999/",
    ];

    /// Returns how many cases there are, and which of them a guard lets through.
    fn let_through(refuses: impl Fn(Egress, &str) -> bool) -> (usize, Vec<String>) {
        let outside = PRIVATE.iter().chain(RESERVED).flat_map(|host| {
            [
                (OUTSIDE, format!("https://{host}/mcp")),
                (OUTSIDE, format!("https://{host}:8443/")),
            ]
        });
        let inside = RESERVED
            .iter()
            .map(|host| (INSIDE, format!("https://{host}/mcp")));
        let shapes = SHAPES.iter().map(|url| (OUTSIDE, (*url).to_owned()));
        let cases: Vec<(Egress, String)> = outside.chain(inside).chain(shapes).collect();
        let passed = cases.iter().filter(|(egress, url)| !refuses(*egress, url));
        (cases.len(), passed.map(|(_, url)| url.clone()).collect())
    }

    /// The planted twins: guards as they are often written. Each lets something through, so the
    /// row can fail.
    #[test]
    fn x6_twin_a_guard_that_reads_the_text_only_is_noticed() {
        let by_prefix = |_: Egress, url: &str| {
            let inside = [
                "https://127.",
                "https://10.",
                "https://192.168.",
                "https://localhost",
            ];
            !url.starts_with("https://") || inside.iter().any(|prefix| url.starts_with(prefix))
        };
        let by_literal = |_: Egress, url: &str| {
            let host = reqwest::Url::parse(url)
                .ok()
                .and_then(|url| url.host_str().map(str::to_owned));
            host.is_none_or(|host| {
                let address = host.parse::<std::net::Ipv4Addr>();
                address.is_ok_and(|address| address.is_loopback() || address.is_private())
            })
        };
        for passed in [let_through(by_prefix).1, let_through(by_literal).1] {
            assert!(passed.len() > 20, "{passed:?}");
        }
        // One that forgets only where credentials of clouds are kept.
        let forgetful =
            |egress: Egress, url: &str| refused(egress, url) && !url.contains("169.254.169.254");
        assert!(!let_through(forgetful).1.is_empty());
    }

    #[test]
    fn x6_no_spelling_of_an_inside_address_passes() {
        let started = std::time::Instant::now();
        let (cases, passed) = let_through(refused);
        // What it is for: the twin that shows that not everything is refused.
        for url in [
            "https://example.com/mcp",
            "https://8.8.8.8/",
            "https://[2606:4700::1111]:8443/mcp",
            "https://172.32.0.1/",
            "https://100.128.0.1/",
        ] {
            assert!(!refused(OUTSIDE, url), "{url}");
        }
        for host in PRIVATE {
            let url = format!("http://{host}/mcp");
            assert!(!refused(INSIDE, &url), "{url}");
        }
        row("X6-egress", cases, passed.len(), started);
        assert!(passed.is_empty(), "{passed:?}");
        assert!(cases >= 150, "{cases}");
    }

    #[test]
    fn x6_one_inside_address_among_many_refuses_the_name() {
        let outside: SocketAddr = "8.8.8.8:0".parse().expect("an address");
        let inside: SocketAddr = "10.0.0.1:0".parse().expect("an address");
        assert_eq!(OUTSIDE.check_all(&[outside]), Ok(()));
        assert!(OUTSIDE.check_all(&[outside, inside]).is_err());
        assert!(OUTSIDE.check_all(&[inside, outside]).is_err());
        assert!(INSIDE.check_all(&[outside, inside]).is_ok());
        assert_eq!(OUTSIDE.check_all(&[]), Err(EgressError::NoAddress));
    }

    #[tokio::test]
    async fn x6_a_name_that_stands_for_this_machine_is_refused_where_it_is_resolved() {
        let name = |name: &str| name.parse().expect("a name");
        let refused = GuardedResolver(OUTSIDE).resolve(name("localhost")).await;
        let refused = refused.map(|_| ()).expect_err("it is this machine");
        assert!(refused.to_string().contains("private"), "{refused}");
        assert!(
            GuardedResolver(INSIDE)
                .resolve(name("localhost"))
                .await
                .is_ok()
        );
    }

    #[allow(clippy::print_stdout, reason = "the scoreboard reads this line")]
    fn row(name: &str, cases: usize, failures: usize, started: std::time::Instant) {
        println!(
            "{name} {cases} {failures} {:.3}",
            started.elapsed().as_secs_f64()
        );
    }
}
