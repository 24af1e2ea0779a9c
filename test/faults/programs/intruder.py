# SPDX-License-Identifier: Apache-2.0
# Asks HOST PORT again and again in plain text, each time over a new connection, whatever becomes of it. A JSON line for
# each: when it was asked (ms since the epoch), the status of the answer or 0.
import json, socket, sys, time

host, port = sys.argv[1], int(sys.argv[2])
PERIOD = 0.05
PATIENCE = 3.0

while True:
    asked = time.time()
    status = 0
    try:
        with socket.create_connection((host, port), timeout=PATIENCE) as s:
            s.sendall(b'GET /intruder HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n')
            words = s.recv(64).split()
            status = int(words[1]) if len(words) > 1 else 0
    except OSError:
        pass
    print(json.dumps({'atMs': round(asked * 1000), 'status': status}), flush=True)
    time.sleep(max(0, PERIOD - (time.time() - asked)))
