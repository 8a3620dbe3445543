# One socket of libzmq that plays a part of a test: interop.py PART ADDRESS.
# Everything that is printed is what the test waits for; any exception fails it.
import sys
import time

import zmq

part, address = sys.argv[1:]
context = zmq.Context()
large = bytes(at % 251 for at in range(1_000_000))


def say(*words):
    print(*words, flush=True)


def socket(kind):
    made = context.socket(kind)
    made.setsockopt(zmq.LINGER, 10_000)
    made.setsockopt(zmq.RCVTIMEO, 15_000)
    return made


def subscriber():
    made = socket(zmq.SUB)
    made.setsockopt(zmq.HEARTBEAT_IVL, 100)
    made.setsockopt(zmq.HEARTBEAT_TIMEOUT, 400)
    made.setsockopt(zmq.HEARTBEAT_TTL, 400)
    made.setsockopt(zmq.SUBSCRIBE, b"kv@")
    return made


def listen(made):
    events = made.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    assert made.recv_multipart() == [b"kv@hello"]
    say("hello")
    assert not events.poll(1_000), "the connection was lost"
    made.disable_monitor()
    events.close()
    say("still connected")
    for parts in (3, 2):
        got = made.recv_multipart()
        while got == [b"kv@hello"]:
            got = made.recv_multipart()
        assert len(got) == parts
        assert parts == 2 or got[2] == large
        say(got[0].decode(), *(len(frame) for frame in got[1:]))
    made.setsockopt(zmq.UNSUBSCRIBE, b"kv@")
    assert not made.poll(300), "a message that nobody wants"
    say("cancelled")


if part == "pub":
    made = socket(zmq.XPUB)
    made.bind(address)
    say(made.getsockopt(zmq.LAST_ENDPOINT).decode())
    wish = made.recv()
    assert wish[:1] == b"\x01"
    say("subscribed", wish[1:].decode())
    made.send_multipart([b"other", b"x"])
    made.send_multipart([b"kv@a", b"", b"payload"])
    made.send_multipart([b"kv@b", b"", large])
    time.sleep(1)
    made.send_multipart([b"kv@c"])
elif part == "sub-connect":
    made = subscriber()
    made.connect(address)
    listen(made)
elif part == "sub-bind":
    made = subscriber()
    made.bind(address)
    say(made.getsockopt(zmq.LAST_ENDPOINT).decode())
    listen(made)
elif part == "dealer":
    made = socket(zmq.DEALER)
    made.setsockopt(zmq.IDENTITY, b"a name of its own")
    made.connect(address)
    made.send_multipart([b"", b"question"])
    for _ in range(2):
        empty, reply = made.recv_multipart()
        assert empty == b""
        say(len(reply))
elif part == "req":
    made = socket(zmq.REQ)
    made.connect(address)
    made.send(b"question")
    say(len(made.recv()))
elif part == "router":
    made = socket(zmq.ROUTER)
    made.bind(address)
    say(made.getsockopt(zmq.LAST_ENDPOINT).decode())
    peer, empty, question = made.recv_multipart()
    assert empty == b""
    say(question.decode())
    made.send_multipart([peer, b"", large])
else:
    sys.exit(f"there is no part {part}")
made.close()
context.term()
