//! `dial_metadata` and `dial_public`: every way out by socket.
//!
//! The public addresses are reserved for documentation (RFC 5737) and belong to nobody.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::time::Duration;

use nix::errno::Errno;

use super::{Arguments, errno};
use crate::raw::{self, Arg, Call};
use crate::report::{Attempt, Plan, Report};

/// Long enough for a metadata service, which answers from the same machine, and two of them well below a second.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(400);

const METADATA: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);
const TCP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)), 443);
const UDP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 53)), 53);

/// A DNS question for the root's name servers: 17 bytes that any resolver would answer.
const DNS_QUESTION: [u8; 17] = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// The abstract unix socket that a test listens on outside the sandbox.
const ABSTRACT_SOCKET: &str = "palisade-demo-canary";

const TIMED_OUT: &str =
    "ETIMEDOUT where packets are dropped without an answer; succeeds where somebody listens";

pub(crate) fn metadata(_arguments: &Arguments<'_>) -> Report {
    let attempt = Plan::new("metadata_tcp", format!("connect to {METADATA} by TCP"))
        .proves("the cloud account's credentials can be had from the metadata service")
        .unconfined(TIMED_OUT)
        .judge(connect(METADATA));
    Report { controls: Vec::new(), attempts: vec![attempt] }
}

pub(crate) fn public(arguments: &Arguments<'_>) -> Report {
    let mut attempts = vec![
        Plan::new("public_tcp", format!("connect to {TCP} by TCP"))
            .proves("data can be sent to anybody")
            .unconfined(TIMED_OUT)
            .judge(connect(TCP)),
        Plan::new("public_udp", format!("send a DNS question to {UDP} by UDP"))
            .proves("data can be sent to anybody, or hidden in DNS questions")
            .unconfined("succeeds: the packet leaves; ENETUNREACH without a default route")
            .judge(send()),
    ];
    attempts.extend(SOCKETS.iter().map(open_socket));
    attempts.push(connect_abstract(arguments.text("abstract_socket").unwrap_or(ABSTRACT_SOCKET)));
    Report { controls: Vec::new(), attempts }
}

fn connect(address: SocketAddr) -> Result<String, Errno> {
    match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
        Ok(_stream) => Ok("connected".to_owned()),
        // std's own timeout has no error number.
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Err(Errno::ETIMEDOUT),
        Err(error) => Err(errno(&error)),
    }
}

fn send() -> Result<String, Errno> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(|error| errno(&error))?;
    let sent = socket.send_to(&DNS_QUESTION, UDP).map_err(|error| errno(&error))?;
    Ok(format!("sent {sent} bytes"))
}

struct Socket {
    id: &'static str,
    what: &'static str,
    domain: i32,
    kind: i32,
    protocol: i32,
    proves: &'static str,
    unconfined: &'static str,
}

/// Only opened, never used: that it can be had is the finding.
const SOCKETS: [Socket; 5] = [
    Socket {
        id: "raw_socket",
        what: "open a raw IP socket",
        domain: libc::AF_INET,
        kind: libc::SOCK_RAW,
        protocol: libc::IPPROTO_ICMP,
        proves: "packets can be forged",
        unconfined: "succeeds as root, EPERM otherwise",
    },
    Socket {
        id: "packet_socket",
        what: "open a packet socket (AF_PACKET)",
        domain: libc::AF_PACKET,
        kind: libc::SOCK_RAW,
        protocol: 0,
        proves: "traffic can be read from the wire",
        unconfined: "succeeds as root, EPERM otherwise",
    },
    Socket {
        id: "netlink_socket",
        what: "open a netlink socket (AF_NETLINK, NETLINK_ROUTE)",
        domain: libc::AF_NETLINK,
        kind: libc::SOCK_RAW,
        protocol: libc::NETLINK_ROUTE,
        proves: "the kernel's network configuration code, a frequent source of exploits, is within reach",
        unconfined: "succeeds for everybody",
    },
    Socket {
        id: "vsock_socket",
        what: "open a socket to the hypervisor (AF_VSOCK)",
        domain: libc::AF_VSOCK,
        kind: libc::SOCK_STREAM,
        protocol: 0,
        proves: "the machine's hypervisor can be spoken to; no network namespace confines these sockets",
        unconfined: "succeeds for everybody where the kernel has it, EAFNOSUPPORT otherwise",
    },
    Socket {
        id: "alg_socket",
        what: "open a socket to the kernel's crypto code (AF_ALG)",
        domain: libc::AF_ALG,
        kind: libc::SOCK_SEQPACKET,
        protocol: 0,
        proves: "the kernel's crypto code, a frequent source of exploits, is within reach",
        unconfined: "succeeds for everybody where the kernel has it, EAFNOSUPPORT otherwise",
    },
];

fn open_socket(socket: &Socket) -> Attempt {
    let kind = socket.kind | libc::SOCK_CLOEXEC;
    let mut arguments = [Arg::Value(socket.domain), Arg::Value(kind), Arg::Value(socket.protocol)];
    let opened = raw::call(Call::SOCKET, &mut arguments).and_then(|socket| {
        let socket = i32::try_from(socket).map_err(|_too_wide| Errno::EOVERFLOW)?;
        raw::call(Call::CLOSE, &mut [Arg::Value(socket)])
    });
    Plan::new(socket.id, socket.what)
        .proves(socket.proves)
        .unconfined(socket.unconfined)
        .judge(opened.map(|_zero| "opened".to_owned()))
}

fn connect_abstract(name: &str) -> Attempt {
    let connected = UnixAddr::from_abstract_name(name).and_then(|address| UnixStream::connect_addr(&address));
    Plan::new("abstract_unix", format!("connect to the abstract unix socket @{name}"))
        .proves("services of the host's desktop or message bus can be spoken to")
        .unconfined("succeeds while somebody listens there; ECONNREFUSED otherwise, which then shows nothing")
        .judge(connected.map(|_stream| "connected".to_owned()).map_err(|error| errno(&error)))
}
