//! The sockets with each other and with honest peers of either version.

use std::time::Duration;

use bytes::Bytes;

use super::{DEADLINE, Raw, eventually, frames, in_time, listener, message, short};
use crate::telemetry::shutdown::Shutdown;
use crate::zmtp::codec::{Command, Item, SocketType};
use crate::zmtp::{
    DealerSocket, PubSocket, Reason, RouterSocket, SocketError, SocketSettings, SubSocket, command,
    frame,
};

const ANY_PORT: &str = "tcp://127.0.0.1:0";

async fn publisher() -> (PubSocket, Shutdown) {
    let shutdown = Shutdown::new();
    let settings = SocketSettings::default();
    let publisher = PubSocket::bind(ANY_PORT, settings, &shutdown).await;
    (publisher.unwrap(), shutdown)
}

/// Publishes until the subscriber hears: a subscription takes time to arrive.
async fn subscribed(publisher: &PubSocket, socket: &mut SubSocket, topic: &str) {
    let hello = frames(&[topic, "hello"]);
    in_time("subscribed", async {
        loop {
            publisher.send(&hello);
            let pause = Duration::from_millis(5);
            if tokio::time::timeout(pause, socket.receive()).await.is_ok() {
                break;
            }
        }
    })
    .await;
    // Nothing is lost from here on; what is still on its way is passed over.
    publisher.send(&frames(&[topic, "begin"]));
    while in_time("begin", socket.receive()).await.unwrap()[1] != "begin" {}
}

#[tokio::test]
async fn a_subscriber_gets_what_it_asked_for_in_order() {
    let (publisher, _shutdown) = publisher().await;
    let settings = SocketSettings::default();
    let socket = SubSocket::connect(publisher.address(), b"kv@", &settings).await;
    let mut socket = socket.unwrap();
    subscribed(&publisher, &mut socket, "kv@x").await;
    let large = Bytes::from(vec![9; 3 << 20]);
    for number in 0..100_u8 {
        publisher.send(&frames(&["other", "x"]));
        publisher.send(&["kv@a".into(), vec![number].into(), large.clone()]);
        publisher.send(&frames(&["kv"]));
        let got = in_time("a message", socket.receive()).await.unwrap();
        assert_eq!(got[..2], [Bytes::from("kv@a"), vec![number].into()]);
        assert!(got[2] == large);
    }
    assert_eq!((publisher.dropped(), publisher.tally().total()), (0, 0));
    drop(publisher);
    let end = in_time("the end", socket.receive()).await;
    assert!(end.unwrap_err().reason().is_none(), "it went by itself");
}

#[tokio::test]
async fn subscriptions_are_understood_in_both_forms_and_count() {
    let (publisher, _shutdown) = publisher().await;
    let as_message = |first, prefix: &str| {
        let mut body = vec![first];
        body.extend_from_slice(prefix.as_bytes());
        frame::message(&[body.into()])
    };
    for minor in [0, 1] {
        let mut raw = Raw::connect(publisher.address()).await;
        raw.shake_hands(minor, SocketType::Sub).await;
        let (subscribe, cancel) = if minor == 0 {
            (as_message(1, "a"), as_message(0, "a"))
        } else {
            let command = |name| frame::command(name, &[b"a"]);
            (command("SUBSCRIBE"), command("CANCEL"))
        };
        // Twice, and once no longer; `end` says when all was understood.
        for bytes in [&subscribe, &subscribe, &cancel, &as_message(1, "end")] {
            raw.send(bytes).await;
        }
        let mut heard = None;
        in_time("both subscriptions", async {
            while heard.is_none() {
                publisher.send(&frames(&["end"]));
                tokio::time::sleep(Duration::from_millis(2)).await;
                publisher.send(&frames(&["abc"]));
                heard = raw.item().await.filter(|item| *item == abc());
            }
        })
        .await;
        raw.send(&cancel).await;
        raw.send(&frame::command("PING", &[&[0, 0], b"all read"]))
            .await;
        // The answer to a PING shows that what came before it was read.
        while raw.item().await != Some(Item::Command(Command::Other)) {}
        publisher.send(&frames(&["abc"]));
        publisher.send(&frames(&["end", "last"]));
        let mut item = raw.item().await;
        while item != Some(Item::Message(frames(&["end", "last"]))) {
            assert_ne!(item, Some(abc()), "no longer subscribed");
            item = raw.item().await;
        }
    }
    assert_eq!(publisher.tally().total(), 0);
}

fn abc() -> Item {
    Item::Message(frames(&["abc"]))
}

#[tokio::test]
async fn a_publisher_of_either_version_is_subscribed_to_in_its_own_form() {
    for minor in [0, 1] {
        let (listener, address) = listener().await;
        let subscriber = tokio::spawn(async move {
            let settings = short(|_| {});
            let mut socket = SubSocket::connect(&address, b"kv@", &settings)
                .await
                .unwrap();
            socket.receive().await
        });
        let mut raw = Raw::accept(&listener).await;
        raw.shake_hands(minor, SocketType::Pub).await;
        let expected = if minor == 0 {
            Item::Message(frames(&["\u{1}kv@"]))
        } else {
            Item::Command(Command::Subscribe("kv@".into()))
        };
        assert_eq!(raw.item().await, Some(expected));
        raw.send(&message(&["kv@x", "", "payload"])).await;
        let got = in_time("the message", subscriber).await.unwrap().unwrap();
        assert_eq!(got, frames(&["kv@x", "", "payload"]));
    }
}

#[tokio::test]
async fn requests_find_their_way_back() {
    let shutdown = Shutdown::new();
    let settings = SocketSettings::default();
    let router = RouterSocket::bind("tcp://*:0", settings, &shutdown).await;
    let mut router = router.unwrap();
    let port = router.address().rsplit_once(':').unwrap().1;
    let address = format!("tcp://127.0.0.1:{port}");
    let mut dealers = Vec::new();
    for _ in 0..3 {
        let dealer = DealerSocket::connect(&address, &settings).await;
        dealers.push(dealer.unwrap());
    }
    for (place, dealer) in dealers.iter_mut().enumerate() {
        let number = Bytes::from(vec![place as u8]);
        dealer.send(&[Bytes::new(), number]).await.unwrap();
    }
    for _ in 0..dealers.len() {
        let request = in_time("a request", router.receive()).await.unwrap();
        // More than the queue takes at once.
        tokio::spawn(async move {
            for part in 0..20 {
                let mut reply = request.frames.clone();
                reply.push(Bytes::from(vec![part; 100_000]));
                request.reply(&reply).await.unwrap();
            }
        });
    }
    for (place, dealer) in dealers.iter_mut().enumerate() {
        for part in 0..20 {
            let got = in_time("a reply", dealer.receive()).await.unwrap();
            assert_eq!(got[..2], [Bytes::new(), Bytes::from(vec![place as u8])]);
            assert!(got[2] == vec![part; 100_000]);
        }
    }
    drop(dealers);
    shutdown.begin();
    assert!(in_time("the end", router.receive()).await.is_none());
    in_time("all tasks", shutdown.finished()).await.unwrap();
}

#[tokio::test]
async fn a_receive_that_is_given_up_loses_nothing() {
    let (listener, address) = listener().await;
    let writer = tokio::spawn(async move {
        let mut raw = Raw::accept(&listener).await;
        raw.shake_hands(1, SocketType::Pub).await;
        let wire = message(&["kv@", "first", "second"]).repeat(3);
        for byte in wire {
            raw.send(&[byte]).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        raw
    });
    let mut socket = SubSocket::connect(&address, b"", &short(|_| {}))
        .await
        .unwrap();
    let mut got = Vec::new();
    in_time("three messages", async {
        while got.len() < 3 {
            let pause = Duration::from_micros(300);
            if let Ok(frames) = tokio::time::timeout(pause, socket.receive()).await {
                got.push(frames.unwrap());
            }
        }
    })
    .await;
    assert_eq!(got, vec![frames(&["kv@", "first", "second"]); 3]);
    drop(writer.await);
}

#[tokio::test]
async fn silent_publishers_are_asked_and_those_that_answer_are_kept() {
    let (listener, address) = listener().await;
    let subscriber = tokio::spawn(async move {
        let settings = short(|settings| settings.heartbeat = Duration::from_millis(50));
        let socket = SubSocket::connect(&address, b"", &settings).await;
        let mut socket = socket.unwrap();
        (socket.receive().await, socket.receive().await)
    });
    let mut raw = Raw::accept(&listener).await;
    raw.shake_hands(1, SocketType::Pub).await;
    let mut pings = 0;
    while pings < 5 {
        if let Some(Item::Command(Command::Ping(context))) = raw.item().await {
            pings += 1;
            raw.send(&command::pong(&context)).await;
        }
    }
    raw.send(&message(&["still here"])).await;
    let (first, second) = in_time("both", subscriber).await.unwrap();
    assert_eq!(first.unwrap(), frames(&["still here"]));
    let gone = second.unwrap_err();
    assert_eq!(gone.reason(), Some(Reason::Timeout), "{gone}");
    assert!(raw.is_closed().await);
}

#[tokio::test]
async fn a_publisher_that_dials_comes_back() {
    let (listener, address) = listener().await;
    let shutdown = Shutdown::new();
    let publisher = PubSocket::dial(&address, SocketSettings::default(), &shutdown).unwrap();
    for _ in 0..2 {
        let (stream, _) = in_time("dialled", listener.accept()).await.unwrap();
        let socket = SubSocket::accepted(stream, b"kv@", &SocketSettings::default()).await;
        subscribed(&publisher, &mut socket.unwrap(), "kv@x").await;
        eventually("it is gone", || publisher.subscribers() == 0).await;
    }
    drop(publisher);
    shutdown.begin();
    in_time("all tasks", shutdown.finished()).await.unwrap();
}

#[tokio::test]
async fn addresses_that_are_none_are_refused() {
    let (shutdown, settings) = (Shutdown::new(), SocketSettings::default());
    for address in [
        "ipc:///tmp/x",
        "127.0.0.1:1",
        "tcp://127.0.0.1",
        "tcp://h:70000",
        "",
    ] {
        let error = PubSocket::bind(address, settings, &shutdown)
            .await
            .unwrap_err();
        assert!(
            matches!(error, SocketError::Address(_)),
            "{address}: {error}"
        );
        let error = PubSocket::dial(address, settings, &shutdown).unwrap_err();
        assert!(error.to_string().contains("tcp://HOST:PORT"));
        let error = SubSocket::connect(address, b"", &settings)
            .await
            .unwrap_err();
        assert!(
            matches!(error, SocketError::Address(_)),
            "{address}: {error}"
        );
    }
    let (taken, address) = listener().await;
    let error = RouterSocket::bind(&address, settings, &shutdown)
        .await
        .unwrap_err();
    assert!(error.to_string().contains(&address), "{error}");
    drop(taken);
    let error = SubSocket::connect(&address, b"", &settings)
        .await
        .unwrap_err();
    assert!(matches!(error, SocketError::Connect { .. }), "{error}");
    assert_eq!(error.reason(), None, "nobody broke a rule");
    assert!(DEADLINE > settings.handshake);
}
