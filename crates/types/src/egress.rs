//! Where no sandbox may go, whatever anybody allows.

/// Ranges that are closed to every sandbox: private networks, the machine itself, link-local with the cloud
/// metadata addresses (one of which, 168.63.129.16 on Azure, is not link-local), and what is not unicast. No user rule opens them.
pub const CLOSED_IPV4: [&str; 15] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
];
