use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// Whose connection it is, for the limit per client.
///
/// By default the IPv4 address, or the first 64 bits of the IPv6 address: whoever rents a line or a server
/// has a whole /64, so a limit per IPv6 address limits nobody (RFC 6177, RFC 9099 section 2.1.6).
///
/// # Examples
///
/// ```
/// use tower_connection_limit::Client;
///
/// let one = Client::network("2001:db8::1".parse()?, 32, 64);
/// let two = Client::network("2001:db8::2".parse()?, 32, 64);
/// assert_eq!(one, two);
/// assert_eq!(one.to_string(), "2001:db8::/64");
///
/// let mapped = Client::network("::ffff:192.0.2.1".parse()?, 32, 64);
/// assert_eq!(mapped.to_string(), "192.0.2.1");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client(Key);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    Network(IpAddr, u8),
    Name(Arc<str>),
}

impl Client {
    /// The network that `address` belongs to: its first `ipv4_bits` or `ipv6_bits` bits. An IPv4 address
    /// in IPv6 form is an IPv4 address.
    ///
    /// # Panics
    ///
    /// If `ipv4_bits` is more than 32 or `ipv6_bits` more than 128.
    #[must_use]
    pub fn network(address: IpAddr, ipv4_bits: u8, ipv6_bits: u8) -> Self {
        assert!(ipv4_bits <= 32, "an IPv4 address has 32 bits");
        assert!(ipv6_bits <= 128, "an IPv6 address has 128 bits");
        Self(match address.to_canonical() {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(ipv4_bits)).unwrap_or(0);
                let network = Ipv4Addr::from_bits(address.to_bits() & mask);
                Key::Network(network.into(), ipv4_bits)
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(ipv6_bits))
                    .unwrap_or(0);
                let network = Ipv6Addr::from_bits(address.to_bits() & mask);
                Key::Network(network.into(), ipv6_bits)
            }
        })
    }

    /// A client that something else tells: the path of a Unix socket, a customer behind a network.
    ///
    /// ```
    /// # use tower_connection_limit::Client;
    /// assert_eq!(Client::named("cron").to_string(), "cron");
    /// ```
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self(Key::Name(name.into()))
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Key::Network(address @ IpAddr::V4(_), 32) | Key::Network(address, 128) => {
                address.fmt(f)
            }
            Key::Network(address, bits) => write!(f, "{address}/{bits}"),
            Key::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(all(test, not(tower_loom)))]
mod tests {
    use super::*;

    fn network(address: &str, ipv4_bits: u8, ipv6_bits: u8) -> String {
        Client::network(address.parse().unwrap(), ipv4_bits, ipv6_bits).to_string()
    }

    #[test]
    fn a_prefix_may_be_anything_from_none_to_all() {
        assert_eq!(network("192.0.2.77", 32, 64), "192.0.2.77");
        assert_eq!(network("192.0.2.77", 24, 64), "192.0.2.0/24");
        assert_eq!(network("192.0.2.77", 0, 64), "0.0.0.0/0");
        assert_eq!(network("2001:db8:1:2:3::4", 32, 128), "2001:db8:1:2:3::4");
        assert_eq!(network("2001:db8:1:2:3::4", 32, 56), "2001:db8:1::/56");
        assert_eq!(network("2001:db8:1:2:3::4", 32, 0), "::/0");
    }

    #[test]
    #[should_panic(expected = "32 bits")]
    fn too_long_a_prefix_is_a_mistake() {
        let _ = network("192.0.2.77", 33, 64);
    }
}
