//! A port that is taken -> the process that has it, from the kernel's socket tables and every
//! process's open files. IO: reads `/proc`.

use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Who has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A process whose files may be read.
    Process {
        /// Its name as the kernel knows it.
        name: String,
        /// Its id.
        id: u32,
    },
    /// A process whose files may not be read.
    OtherUser,
    /// A socket in no table: bound without listening, or gone meanwhile.
    Unseen,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { name, id } => write!(f, "{name:?} (process {id})"),
            Self::OtherUser => f.write_str("a process of another user"),
            Self::Unseen => f.write_str("a process that cannot be seen"),
        }
    }
}

impl Owner {
    /// Finds who has the port of this IPv4 address.
    pub fn at(address: SocketAddr) -> Self {
        let sockets: Vec<Socket> = ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .flat_map(|table| sockets(&fs::read_to_string(table).unwrap_or_default(), address))
            .collect();
        let listening = sockets.iter().find(|socket| socket.listens);
        match listening.or_else(|| sockets.iter().find(|socket| socket.inode != 0)) {
            None => Self::Unseen,
            Some(socket) => holder(socket.inode).unwrap_or(Self::OtherUser),
        }
    }
}

#[derive(Debug, PartialEq)]
struct Socket {
    inode: u64,
    listens: bool,
}

/// The sockets of one of the kernel's tables that keep others from this address.
fn sockets(table: &str, address: SocketAddr) -> Vec<Socket> {
    let IpAddr::V4(ip) = address.ip() else {
        return Vec::new();
    };
    // The kernel prints the address as a number of its own byte order.
    let taken = format!("{:08X}", u32::from_ne_bytes(ip.octets()));
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (ip, port) = fields.get(1)?.rsplit_once(':')?;
        let mine = u16::from_str_radix(port, 16).ok()? == address.port()
            && (ip.ends_with(&taken) || ip.bytes().all(|digit| digit == b'0'));
        mine.then_some(Socket {
            inode: fields.get(9)?.parse().ok()?,
            listens: *fields.get(3)? == "0A",
        })
    };
    table.lines().filter_map(socket).collect()
}

/// The process that has a socket open.
fn holder(inode: u64) -> Option<Owner> {
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(id) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let files = fs::read_dir(process.path().join("fd"));
        let has = files.into_iter().flatten().flatten().any(|file| {
            fs::read_link(file.path()).is_ok_and(|target| target == Path::new(&wanted))
        });
        if has {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(Owner::Process {
                name: name.trim_end().to_owned(),
                id,
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_kernels_tables_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:5208 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0
   1: 0200007F:5208 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0 100 0 0 10 0
   2: 00000000:5208 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 4713 1 0 100 0 0 10 0
   3: 0000000000000000FFFF00000100007F:5208 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 4714 1
   4: 0100007F:5209 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4715 1 0 100 0 0 10 0
";
        let address = SocketAddr::from(([127, 0, 0, 1], 0x5208));
        let found: Vec<_> = sockets(table, address)
            .into_iter()
            .map(|socket| (socket.inode, socket.listens))
            .collect();
        assert_eq!(found, [(4711, true), (4713, false), (4714, true)]);
    }

    #[test]
    fn owners_read_like_a_sentence() {
        let process = Owner::Process {
            name: "python3".to_owned(),
            id: 7,
        };
        assert_eq!(process.to_string(), "\"python3\" (process 7)");
        assert_eq!(Owner::OtherUser.to_string(), "a process of another user");
    }
}
