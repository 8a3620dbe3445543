//! Peers that mean harm: each is dropped in time, counted under its reason, and costs nobody
//! else anything.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;

use super::{DEADLINE, HUGE, Raw, eventually, frames, in_time, listener, message, short};
use crate::telemetry::shutdown::Shutdown;
use crate::zmtp::codec::{Item, SocketType};
use crate::zmtp::{
    DealerSocket, PubSocket, Reason, RouterSocket, SocketError, SocketSettings, SubSocket, command,
    frame, greeting,
};

/// A deadline that a test waits for.
const SOON: Duration = Duration::from_millis(150);

/// What a SUB socket makes of a publisher that sends these bytes, in pieces, and then waits;
/// the publisher must see that the connection is closed.
async fn met(pieces: &[&[u8]], settings: SocketSettings) -> SocketError {
    let (listener, address) = listener().await;
    let subscriber = tokio::spawn(async move {
        let mut socket = SubSocket::connect(&address, b"kv@", &settings).await?;
        loop {
            socket.receive().await?;
        }
    });
    let mut raw = Raw::accept(&listener).await;
    for piece in pieces {
        // The other side may be gone by now, which is the point.
        if raw.stream.write_all(piece).await.is_err() {
            break;
        }
    }
    let ended: Result<(), SocketError> = in_time("dropped", subscriber).await.unwrap();
    assert!(raw.is_closed().await);
    ended.unwrap_err()
}

fn hello(own: SocketType) -> Vec<u8> {
    [&greeting::ours()[..], &command::ready(own)].concat()
}

#[tokio::test]
async fn what_cannot_be_taken_is_not_taken_from_a_publisher() {
    let greeting = greeting::ours();
    let hello = hello(SocketType::Pub);
    let good = message(&["kv@x", "1", "p"]);
    let more = [1, 0].repeat(100_000);
    let parts = [&[3, 0, 0, 0, 0, 0, 0x80, 0, 0][..], &vec![0; 8 << 20]]
        .concat()
        .repeat(3);
    let wrong_type = self::hello(SocketType::Sub);
    let old = b"\xff\0\0\0\0\0\0\0\x01\x7f\x01\0";
    let cases: [(&[&[u8]], Reason); 12] = [
        (&[&HUGE], Reason::Handshake),
        (&[&greeting, &HUGE], Reason::FrameTooLarge),
        (
            &[&greeting, &[6, 0, 0, 1, 0, 0, 0, 0, 0]],
            Reason::FrameTooLarge,
        ),
        (&[&hello, &HUGE], Reason::FrameTooLarge),
        (&[&hello, &good, &good, &HUGE], Reason::FrameTooLarge),
        (&[&hello, &more], Reason::TooManyFrames),
        (&[&hello, &parts], Reason::MessageTooLarge),
        (&[&[0xff; 4096]], Reason::Handshake),
        (&[old], Reason::Handshake),
        (&[&wrong_type], Reason::Handshake),
        (&[&hello, &[0x10, 0]], Reason::BadFrame),
        (&[&greeting, &command::error("go away")], Reason::PeerError),
    ];
    for (pieces, reason) in cases {
        let ended = met(pieces, short(|_| {})).await;
        assert_eq!(ended.reason(), Some(reason), "{ended}");
    }
}

#[tokio::test]
async fn nobody_is_waited_for_without_end() {
    let hello = hello(SocketType::Pub);
    let handshake = short(|settings| settings.handshake = SOON);
    let unfinished = short(|settings| settings.message = SOON);
    for (pieces, settings) in [
        (&[][..], handshake),
        (&[&greeting::ours()[..]], handshake),
        (&[&hello[..40]], handshake),
        (&[&hello, &[2, 0, 0, 0][..]], unfinished),
        (&[&hello, &[0, 9, 1][..]], unfinished),
        (&[&hello, &[1, 1, 7][..]], unfinished),
    ] {
        let ended = met(pieces, settings).await;
        assert_eq!(ended.reason(), Some(Reason::Timeout), "{ended}");
    }
}

/// A byte now and then is no excuse.
#[tokio::test]
async fn dribbling_does_not_move_a_deadline() {
    let hello = hello(SocketType::Pub);
    for (at_once, settings) in [
        (0, short(|settings| settings.handshake = SOON)),
        (hello.len(), short(|settings| settings.message = SOON)),
    ] {
        let (listener, address) = listener().await;
        let subscriber = tokio::spawn(async move {
            let mut socket = SubSocket::connect(&address, b"", &settings).await?;
            socket.receive().await
        });
        let mut raw = Raw::accept(&listener).await;
        raw.send(&hello[..at_once]).await;
        // A message of many bytes; commands between its frames give it no more time, either.
        let ping = frame::command("PING", &[&[0, 0]]);
        let rest = [&hello[at_once..], &[1, 1, 7], &ping.repeat(100_000)].concat();
        let dribble = async {
            for byte in rest {
                if raw.stream.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            ended = subscriber => {
                let ended = ended.unwrap().unwrap_err();
                assert_eq!(ended.reason(), Some(Reason::Timeout), "{ended}");
            }
            () = dribble => {}
            () = tokio::time::sleep(DEADLINE) => panic!("the deadline moved"),
        }
    }
}

/// What an honest subscriber hears while others do their worst.
async fn still_publishes(publisher: &PubSocket, socket: &mut SubSocket) {
    in_time("an honest subscriber is served", async {
        loop {
            publisher.send(&frames(&["kv@x", "still here"]));
            let pause = Duration::from_millis(5);
            if tokio::time::timeout(pause, socket.receive()).await.is_ok() {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn listening_sockets_drop_who_breaks_a_rule_and_serve_the_others() {
    let shutdown = Shutdown::new();
    let settings = short(|settings| settings.handshake = SOON);
    let publisher = PubSocket::bind("tcp://127.0.0.1:0", settings, &shutdown).await;
    let publisher = publisher.unwrap();
    let router = RouterSocket::bind("tcp://127.0.0.1:0", settings, &shutdown).await;
    let mut router = router.unwrap();
    let calm = short(|_| {});
    let honest = SubSocket::connect(publisher.address(), b"kv@", &calm).await;
    let mut honest = honest.unwrap();
    let dealer = DealerSocket::connect(router.address(), &calm).await;
    let mut dealer = dealer.unwrap();
    let publisher_tally = |reason| publisher.tally().count(reason);
    let router_tally = router.tally();
    for (address, own) in [
        (publisher.address(), SocketType::Sub),
        (router.address(), SocketType::Dealer),
    ] {
        let hello = hello(own);
        let subscriptions = frame::command("SUBSCRIBE", &[b"kv@"]).repeat(65);
        let cases: [(&[&[u8]], Reason); 6] = [
            (&[&HUGE], Reason::Handshake),
            (&[&greeting::ours(), &HUGE], Reason::FrameTooLarge),
            (&[&hello, &HUGE], Reason::FrameTooLarge),
            (&[&hello, &[1, 0].repeat(1000)], Reason::TooManyFrames),
            (&[], Reason::Timeout),
            (&[&hello, &subscriptions], Reason::TooManySubscriptions),
        ];
        for (pieces, reason) in cases {
            if own == SocketType::Dealer && reason == Reason::TooManySubscriptions {
                continue;
            }
            let count = || match own {
                SocketType::Dealer => router_tally.count(reason),
                _ => publisher_tally(reason),
            };
            let before = count();
            let mut raw = Raw::connect(address).await;
            for piece in pieces {
                // The other side may be gone by now, which is the point.
                let _ = raw.stream.write_all(piece).await;
            }
            assert!(raw.is_closed().await);
            eventually("it is counted", || count() == before + 1).await;
        }
    }
    assert_eq!((publisher.tally().total(), router_tally.total()), (6, 5));
    still_publishes(&publisher, &mut honest).await;
    dealer.send(&frames(&["", "question"])).await.unwrap();
    let request = in_time("a request", router.receive()).await.unwrap();
    request.reply(&frames(&["", "answer"])).await.unwrap();
    let reply = in_time("a reply", dealer.receive()).await.unwrap();
    assert_eq!(reply, frames(&["", "answer"]));
}

#[tokio::test]
async fn connections_beyond_the_bound_are_closed_at_once() {
    let settings = short(|settings| settings.connections = 3);
    let publisher = PubSocket::bind("tcp://127.0.0.1:0", settings, &Shutdown::new()).await;
    let publisher = publisher.unwrap();
    let honest = SubSocket::connect(publisher.address(), b"kv@", &settings).await;
    let mut honest = honest.unwrap();
    let mut idle = Vec::new();
    for _ in 0..2 {
        let mut raw = Raw::connect(publisher.address()).await;
        raw.shake_hands(1, SocketType::Sub).await;
        idle.push(raw);
    }
    for _ in 0..5 {
        let mut raw = Raw::connect(publisher.address()).await;
        assert!(raw.is_closed().await);
    }
    assert_eq!(publisher.tally().count(Reason::TooManyConnections), 5);
    still_publishes(&publisher, &mut honest).await;
    // Who leaves makes room.
    idle.clear();
    eventually("room", || publisher.subscribers() == 1).await;
    let mut raw = Raw::connect(publisher.address()).await;
    raw.shake_hands(1, SocketType::Sub).await;
}

#[tokio::test]
async fn who_does_not_read_loses_messages_and_then_the_connection() {
    let settings = short(|settings| settings.stall = Duration::from_secs(1));
    let publisher = PubSocket::bind("tcp://127.0.0.1:0", settings, &Shutdown::new()).await;
    let publisher = publisher.unwrap();
    let calm = short(|_| {});
    let honest = SubSocket::connect(publisher.address(), b"kv@", &calm).await;
    let mut honest = honest.unwrap();
    let mut deaf = Raw::connect(publisher.address()).await;
    deaf.shake_hands(1, SocketType::Sub).await;
    deaf.send(&frame::command("SUBSCRIBE", &[b"deaf@"])).await;
    deaf.send(&frame::command("PING", &[&[0, 0]])).await;
    assert!(matches!(deaf.item().await, Some(Item::Command(_))));
    let large = Bytes::from(vec![0; 1 << 20]);
    for _ in 0..100 {
        publisher.send(&["deaf@x".into(), large.clone()]);
    }
    // What the system's own buffers take is not lost yet.
    assert!(publisher.dropped() > 30, "{} dropped", publisher.dropped());
    still_publishes(&publisher, &mut honest).await;
    eventually("it is dropped", || {
        publisher.tally().count(Reason::Timeout) == 1
    })
    .await;
    assert_eq!(publisher.subscribers(), 1);
    still_publishes(&publisher, &mut honest).await;
}

/// Answers wait for whoever does not take them; then it is not heard, either.
#[tokio::test]
async fn a_flood_of_pings_that_reads_no_answer_is_cut() {
    let settings = short(|settings| settings.stall = SOON);
    let publisher = PubSocket::bind("tcp://127.0.0.1:0", settings, &Shutdown::new()).await;
    let publisher = publisher.unwrap();
    let mut raw = Raw::connect(publisher.address()).await;
    raw.shake_hands(1, SocketType::Sub).await;
    let pings = frame::command("PING", &[&[0, 0], &[7; 16]]).repeat(1000);
    in_time("cut", async {
        while raw.stream.write_all(&pings).await.is_ok() {}
    })
    .await;
    eventually("counted", || publisher.tally().count(Reason::Timeout) == 1).await;
}
