//! Sockets of every family, and connections to who listens outside.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::errno::Errno;
use palisade_attack::raw::{Arg, Call};
use palisade_attack::steps::errno;

use super::{NOT_GIVEN, Row, descriptor, made, numbers, row};
use crate::given::Given;

/// What the kernel says when it was asked and has no such family, protocol or type.
const NOT_BUILT: &[Errno] =
    &[Errno::EAFNOSUPPORT, Errno::EPROTONOSUPPORT, Errno::ESOCKTNOSUPPORT, Errno::EINVAL, Errno::ENOENT];

macro_rules! families {
    ($($id:literal $what:literal $family:expr, $kind:expr, $protocol:expr;)*) => {
        [$(row($id, concat!("open ", $what, " socket"), |_| numbers(Call::SOCKET, [$family, $kind, $protocol]))
            .reached(NOT_BUILT)),*]
    };
}

pub(super) const FAMILIES: [Row; 22] = families![
    "socket_unix" "a Unix" libc::AF_UNIX, libc::SOCK_STREAM, 0;
    "socket_unix_datagram" "a Unix datagram" libc::AF_UNIX, libc::SOCK_DGRAM, 0;
    "socket_route" "a netlink route" libc::AF_NETLINK, libc::SOCK_RAW, 0;
    "socket_netfilter" "a netlink netfilter" libc::AF_NETLINK, libc::SOCK_RAW, 12;
    "socket_audit" "a netlink audit" libc::AF_NETLINK, libc::SOCK_RAW, 9;
    "socket_uevent" "a netlink uevent" libc::AF_NETLINK, libc::SOCK_RAW, 15;
    "socket_packet" "a packet" libc::AF_PACKET, libc::SOCK_RAW, 0;
    "socket_raw" "a raw IPv4" libc::AF_INET, libc::SOCK_RAW, 1;
    "socket_raw6" "a raw IPv6" libc::AF_INET6, libc::SOCK_RAW, 58;
    "socket_ping" "a ping" libc::AF_INET, libc::SOCK_DGRAM, 1;
    "socket_mptcp" "a multipath TCP" libc::AF_INET, libc::SOCK_STREAM, 262;
    "socket_sctp" "an SCTP" libc::AF_INET, libc::SOCK_STREAM, 132;
    "socket_alg" "a crypto" libc::AF_ALG, libc::SOCK_SEQPACKET, 0;
    "socket_vsock" "a virtual machine" libc::AF_VSOCK, libc::SOCK_STREAM, 0;
    "socket_key" "an IPsec key" libc::AF_KEY, libc::SOCK_RAW, 2;
    "socket_bluetooth" "a Bluetooth" libc::AF_BLUETOOTH, libc::SOCK_RAW, 1;
    "socket_can" "a CAN" libc::AF_CAN, libc::SOCK_RAW, 1;
    "socket_tipc" "a TIPC" libc::AF_TIPC, libc::SOCK_SEQPACKET, 0;
    "socket_xdp" "an XDP" libc::AF_XDP, libc::SOCK_RAW, 0;
    "socket_smc" "an SMC" 43, libc::SOCK_STREAM, 0;
    "socket_rds" "an RDS" libc::AF_RDS, libc::SOCK_SEQPACKET, 0;
    "socket_qrtr" "a QRTR" 42, libc::SOCK_DGRAM, 0;
];

pub(super) const REACHES: [Row; 6] = [
    row("connect_loopback", "connect to a port of the host's loopback", |given| {
        connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port(given)?)))
    }),
    row("connect_own_host", "connect to a port of 0.0.0.0", |given| {
        connect(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port(given)?)))
    }),
    row("listen_tcp", "listen on a TCP port", |_| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map(drop).map_err(|error| errno(&error))
    }),
    row("connect_abstract", "connect to an abstract Unix socket of the host", |given| {
        let name = given.text("abstract_socket").ok_or(NOT_GIVEN)?;
        connect_unix(&[b"\0", name.as_bytes()].concat())
    }),
    row("connect_path", "connect to a Unix socket in a read-write mount", |given| {
        let path = given.text("socket_path").ok_or(NOT_GIVEN)?;
        connect_unix(path.as_bytes())
    }),
    row("listen_abstract", "listen on an abstract Unix socket", |_| {
        let name = format!("\0palisade-probe-{}", std::process::id());
        let socket = unix_socket()?;
        let address = unix_address(name.as_bytes());
        let length = length(&address)?;
        made(Call::BIND, &mut [Arg::Value(socket), Arg::Bytes(&address), Arg::Value(length)])
    }),
];

fn port(given: &Given) -> Result<u16, Errno> {
    given.number("port").and_then(|port| u16::try_from(port).ok()).ok_or(NOT_GIVEN)
}

fn connect(to: SocketAddr) -> Result<(), Errno> {
    TcpStream::connect_timeout(&to, Duration::from_secs(1)).map(drop).map_err(|error| errno(&error))
}

fn unix_socket() -> Result<i32, Errno> {
    descriptor(
        Call::SOCKET,
        &mut [Arg::Value(libc::AF_UNIX), Arg::Value(libc::SOCK_STREAM | libc::SOCK_CLOEXEC), Arg::Value(0)],
    )
}

/// `struct sockaddr_un`, as long as its path.
fn unix_address(path: &[u8]) -> Vec<u8> {
    let family = u16::try_from(libc::AF_UNIX).unwrap_or(1).to_ne_bytes();
    [&family[..], path].concat()
}

fn length(bytes: &[u8]) -> Result<i32, Errno> {
    i32::try_from(bytes.len()).map_err(|_too_wide| Errno::EOVERFLOW)
}

fn connect_unix(path: &[u8]) -> Result<(), Errno> {
    let address = unix_address(path);
    let length = length(&address)?;
    made(Call::CONNECT, &mut [Arg::Value(unix_socket()?), Arg::Bytes(&address), Arg::Value(length)])
}
