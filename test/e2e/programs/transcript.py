#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One server and one client whose transcript must be the same with and without the mesh.

  transcript.py server PORT            serves until killed (IPv4 and IPv6 on one socket)
  transcript.py server4 PORT           the same on an IPv4 socket
  transcript.py client HOST PORT OWN   runs every scenario and prints what the sockets said

Addresses and ports that differ from run to run are printed as what they are equal to.
"""
import errno
import hashlib
import socket
import struct
import sys
import threading


def plain(address):
    """Address text without the IPv4-mapped prefix, and the port."""
    host = address[0]
    return (host[7:] if host.startswith("::ffff:") else host), address[1]


def read_line(conn):
    line = b""
    while not line.endswith(b"\n"):
        byte = conn.recv(1)
        if not byte:
            break
        line += byte
    return line.decode().strip()


def read_all(conn):
    parts = []
    while True:
        part = conn.recv(65536)
        if not part:
            return b"".join(parts)
        parts.append(part)


def attempt(action):
    try:
        return action()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


def serve(conn, accepted):
    try:
        words = read_line(conn).split()
        command = words[0] if words else ""
        if command == "names":
            peer, own = plain(conn.getpeername()), plain(conn.getsockname())
            said = (words[1], int(words[2]))
            dialled = (words[3], int(words[4]))
            lines = [
                # The port is that of the connection between the agents' pods, not of the client's socket.
                "accept gave the client's address: %s" % (plain(accepted)[0] == said[0]),
                "getpeername gives the same: %s" % (peer == plain(accepted)),
                "getsockname port is the dialled one: %s" % (own[1] == dialled[1]),
                "family: %s" % ("v6" if ":" in own[0] else "v4"),
            ]
            conn.sendall(("\n".join(lines) + "\n").encode())
        elif command == "echo":
            while True:
                data = conn.recv(65536)
                if not data:
                    break
                conn.sendall(data)
        elif command == "half":
            data = read_all(conn)
            conn.sendall(b"got %d\n" % len(data))
        elif command == "server-half":
            conn.sendall(b"bye\n")
            conn.shutdown(socket.SHUT_WR)
            data = read_all(conn)
            with open(words[1], "w") as out:
                out.write(str(len(data)))
        elif command == "reset":
            conn.sendall(b"some\n")
            read_line(conn)
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif command == "bulk":
            size = int(words[1])
            digest = hashlib.sha256()
            while size > 0:
                data = conn.recv(65536)
                if not data:
                    break
                digest.update(data)
                size -= len(data)
            conn.sendall((digest.hexdigest() + "\n").encode())
        elif command == "close":
            pass
    except OSError as error:
        print("server: %s" % error, file=sys.stderr)
    finally:
        conn.close()


def server(family, port):
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    listener.listen(128)
    print("listening", flush=True)
    while True:
        conn, accepted = listener.accept()
        threading.Thread(target=serve, args=(conn, accepted), daemon=True).start()


def client(host, port, own):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET

    def connect():
        conn = socket.socket(family, socket.SOCK_STREAM)
        conn.settimeout(20)
        conn.connect((host, port))
        return conn

    print("# names")
    conn = connect()
    name, peer = plain(conn.getsockname()), plain(conn.getpeername())
    print("getpeername is what was dialled:", peer == (host, port))
    print("getsockname is the pod's address:", name[0] == own)
    conn.sendall(("names %s %d %s %d\n" % (name[0], name[1], host, port)).encode())
    print(read_all(conn).decode(), end="")
    conn.close()

    print("# nonblocking connect")
    conn = socket.socket(family, socket.SOCK_STREAM)
    conn.setblocking(False)
    code = conn.connect_ex((host, port))
    print("connect:", errno.errorcode.get(code, code))
    conn.setblocking(True)
    conn.settimeout(20)
    conn.sendall(b"close\n")
    print("error:", conn.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "bytes:", len(read_all(conn)))
    conn.close()

    print("# echo")
    conn = connect()
    conn.sendall(b"echo\n")
    for size in (1, 100, 70000):
        data = bytes(i % 251 for i in range(size))
        conn.sendall(data)
        back = b""
        while len(back) < size:
            back += conn.recv(size - len(back))
        print(size, back == data)
    conn.shutdown(socket.SHUT_WR)
    print("after FIN:", len(read_all(conn)))
    conn.close()

    print("# half close by the client")
    conn = connect()
    conn.sendall(b"half\n" + b"x" * 12345)
    conn.shutdown(socket.SHUT_WR)
    print(read_all(conn).decode(), end="")
    conn.close()

    print("# half close by the server")
    conn = connect()
    conn.sendall(b"server-half /dev/null\n")
    print(read_all(conn).decode(), end="")
    print("write after the server's FIN:", attempt(lambda: conn.sendall(b"y" * 1000)))
    conn.close()

    print("# reset by the server")
    conn = connect()
    conn.sendall(b"reset\n")
    print(read_line(conn))
    conn.sendall(b"now\n")
    print("read:", attempt(lambda: len(conn.recv(100))))
    conn.close()

    print("# bulk")
    conn = connect()
    data = bytes(range(256)) * 8192
    conn.sendall(b"bulk %d\n" % len(data))
    conn.sendall(data)
    print(read_line(conn) == hashlib.sha256(data).hexdigest())
    conn.close()

    print("# bound source")
    conn = socket.socket(family, socket.SOCK_STREAM)
    conn.settimeout(20)
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    conn.bind((own, 0))
    conn.connect((host, port))
    print("getsockname is the pod's address:", plain(conn.getsockname())[0] == own)
    conn.sendall(b"close\n")
    print("bytes:", len(read_all(conn)))
    conn.close()

    if family == socket.AF_INET:
        print("# mapped address")
        conn = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        conn.settimeout(20)
        conn.connect(("::ffff:" + host, port))
        print("getpeername:", conn.getpeername()[:2] == ("::ffff:" + host, port))
        conn.sendall(b"close\n")
        print("bytes:", len(read_all(conn)))
        conn.close()

    print("# done")


if __name__ == "__main__":
    if sys.argv[1] == "server":
        server(socket.AF_INET6, int(sys.argv[2]))
    elif sys.argv[1] == "server4":
        server(socket.AF_INET, int(sys.argv[2]))
    else:
        client(sys.argv[2], int(sys.argv[3]), sys.argv[4])
