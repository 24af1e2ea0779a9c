# SPDX-License-Identifier: Apache-2.0
# Keeps COUNT connections to HOST PORT open with half a TLS hello on each; what is cut off is opened anew. Writes
# a JSON line each second: how many are open, how many were cut off since the start.
import json, selectors, socket, sys, time

host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
HALF = bytes.fromhex('160301010001')
# Faster than the other side cuts off, also on a busy machine.
OPENED_AT_FIRST = 250
OPENED_AGAIN = 12
TICK = 0.05
BYTE_EVERY = 60.0

chosen = selectors.DefaultSelector()
pending, held, cut = set(), {}, 0
told = time.monotonic()


def begin():
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex((host, port))
    pending.add(s)
    chosen.register(s, selectors.EVENT_WRITE)


def end(s):
    global cut
    chosen.unregister(s)
    pending.discard(s)
    held.pop(s, None)
    s.close()
    cut += 1


while True:
    most = OPENED_AT_FIRST if cut + len(held) < count else OPENED_AGAIN
    for _ in range(min(most, count - len(pending) - len(held))):
        begin()
    until = time.monotonic() + TICK
    while (left := until - time.monotonic()) > 0:
        for key, _ in chosen.select(left):
            s = key.fileobj
            try:
                if s in pending:
                    s.send(HALF)
                    pending.discard(s)
                    held[s] = time.monotonic()
                    chosen.modify(s, selectors.EVENT_READ)
                elif not s.recv(64):
                    end(s)
            except OSError:
                end(s)
    now = time.monotonic()
    for s, since in list(held.items()):
        if now - since < BYTE_EVERY:
            continue
        held[s] = now
        try:
            s.send(b'\x00')
        except OSError:
            end(s)
    if now - told >= 1:
        told = now
        print(json.dumps({'open': len(held), 'cut': cut}), flush=True)
