//! The sockets against libzmq, through pyzmq. Said aloud and passed over where it is not
//! installed; `PYTHON` names another interpreter.

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::{frames, in_time, short};
use crate::telemetry::shutdown::Shutdown;
use crate::zmtp::{DealerSocket, PubSocket, RouterSocket, SubSocket};

const SCRIPT: &str = include_str!("interop.py");

/// One socket of libzmq in a process of its own.
struct Libzmq {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Libzmq {
    /// Plays a part of the script; `None` where there is no pyzmq.
    async fn start(part: &str, address: &str) -> Option<Self> {
        let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let probe = Command::new(&python)
            .args(["-c", "import zmq"])
            .output()
            .await;
        match probe {
            Ok(probe) if probe.status.success() => {}
            Ok(_) => {
                eprintln!("SKIPPED {part}: {python} has no pyzmq (pip install pyzmq; PYTHON=...)");
                return None;
            }
            Err(error) => {
                eprintln!("SKIPPED {part}: {python} cannot be started: {error}");
                return None;
            }
        }
        let mut child = Command::new(&python)
            .args(["-c", SCRIPT, part, address])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Some(Self { child, lines })
    }

    /// The next thing it says.
    async fn says(&mut self) -> String {
        let line = in_time("libzmq says something", self.lines.next_line()).await;
        line.unwrap().expect("libzmq's part has not failed")
    }

    async fn ends_well(mut self) {
        let status = in_time("libzmq's part ends", self.child.wait()).await;
        assert!(status.unwrap().success());
    }
}

fn large() -> Bytes {
    (0..1_000_000_u32).map(|at| (at % 251) as u8).collect()
}

#[tokio::test]
async fn a_publisher_of_libzmq_is_heard() {
    let Some(mut peer) = Libzmq::start("pub", "tcp://127.0.0.1:*").await else {
        return;
    };
    let address = peer.says().await;
    let settings = short(|settings| settings.heartbeat = Duration::from_millis(100));
    let mut socket = SubSocket::connect(&address, b"kv@", &settings)
        .await
        .unwrap();
    assert_eq!(peer.says().await, "subscribed kv@");
    let got = in_time("a message", socket.receive()).await.unwrap();
    assert_eq!(got, frames(&["kv@a", "", "payload"]));
    let got = in_time("a message", socket.receive()).await.unwrap();
    assert_eq!(got, ["kv@b".into(), Bytes::new(), large()]);
    // It is silent for ten heartbeats now, answers them, and speaks again.
    let got = in_time("a message", socket.receive()).await.unwrap();
    assert_eq!(got, frames(&["kv@c"]));
    let end = in_time("the end", socket.receive()).await.unwrap_err();
    assert_eq!(end.reason(), None, "{end}");
    peer.ends_well().await;
}

/// Publishes until libzmq has heard three messages, and checks what it heard.
async fn is_heard(publisher: &PubSocket, mut peer: Libzmq) {
    let hello = frames(&["kv@hello"]);
    let heard = in_time("a first message", async {
        loop {
            publisher.send(&hello);
            tokio::select! {
                line = peer.lines.next_line() => return line.unwrap().unwrap(),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
    })
    .await;
    assert_eq!(heard, "hello");
    // Nothing is said for ten of its heartbeats, which must be answered.
    assert_eq!(peer.says().await, "still connected");
    publisher.send(&frames(&["other"]));
    publisher.send(&["kv@x".into(), Bytes::new(), large()]);
    publisher.send(&frames(&["kv@x", "end"]));
    assert_eq!(peer.says().await, "kv@x 0 1000000");
    assert_eq!(peer.says().await, "kv@x 3");
    // It cancels its subscription, and hears nothing until it says so.
    assert_eq!(peer.says().await, "cancelled");
    assert_eq!(publisher.tally().total(), 0);
    assert_eq!(publisher.dropped(), 0);
    peer.ends_well().await;
}

#[tokio::test]
async fn a_subscriber_of_libzmq_hears() {
    let publisher = PubSocket::bind("tcp://127.0.0.1:0", short(|_| {}), &Shutdown::new()).await;
    let publisher = publisher.unwrap();
    let Some(peer) = Libzmq::start("sub-connect", publisher.address()).await else {
        return;
    };
    is_heard(&publisher, peer).await;
}

#[tokio::test]
async fn a_subscriber_of_libzmq_is_dialled() {
    let Some(mut peer) = Libzmq::start("sub-bind", "tcp://127.0.0.1:*").await else {
        return;
    };
    let address = peer.says().await;
    let publisher = PubSocket::dial(&address, short(|_| {}), &Shutdown::new()).unwrap();
    is_heard(&publisher, peer).await;
}

#[tokio::test]
async fn those_who_ask_with_libzmq_are_answered() {
    let router = RouterSocket::bind("tcp://127.0.0.1:0", short(|_| {}), &Shutdown::new()).await;
    let mut router = router.unwrap();
    for part in ["dealer", "req"] {
        let Some(mut peer) = Libzmq::start(part, router.address()).await else {
            return;
        };
        let request = in_time("a request", router.receive()).await.unwrap();
        assert_eq!(request.frames, frames(&["", "question"]));
        for reply in [large(), "end".into()] {
            request.reply(&[Bytes::new(), reply]).await.unwrap();
        }
        assert_eq!(peer.says().await, "1000000");
        if part == "dealer" {
            assert_eq!(peer.says().await, "3");
        }
        peer.ends_well().await;
    }
    assert_eq!(router.tally().total(), 0);
}

#[tokio::test]
async fn a_router_of_libzmq_answers() {
    let Some(mut peer) = Libzmq::start("router", "tcp://127.0.0.1:*").await else {
        return;
    };
    let address = peer.says().await;
    let mut dealer = DealerSocket::connect(&address, &short(|_| {}))
        .await
        .unwrap();
    dealer.send(&frames(&["", "question"])).await.unwrap();
    assert_eq!(peer.says().await, "question");
    let got = in_time("a reply", dealer.receive()).await.unwrap();
    assert_eq!(got, [Bytes::new(), large()]);
    peer.ends_well().await;
}
