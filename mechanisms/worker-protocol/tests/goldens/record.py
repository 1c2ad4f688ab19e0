#!/usr/bin/env python3
"""Stands between clients of a daemon and its socket, and writes what either side sends to files.

    record.py SOCKET DAEMON_SOCKET DIRECTORY

Connection N becomes DIRECTORY/NAME-N.client and DIRECTORY/NAME-N.daemon, where NAME is the contents of
DIRECTORY/name when the connection is made. Files of connections appear when these have ended.
"""

import os
import socket
import sys
import threading

place, daemon, directory = sys.argv[1:]
counts = {}


def pump(source, target, received):
    while data := source.recv(65536):
        received.append(data)
        try:
            target.sendall(data)
        except OSError:
            break
    try:
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def serve(client):
    with open(os.path.join(directory, "name")) as file:
        name = file.read().strip()
    number = counts[name] = counts.get(name, 0) + 1
    server = socket.socket(socket.AF_UNIX)
    server.connect(daemon)

    def run():
        sent, answered = [], []
        back = threading.Thread(target=pump, args=(server, client, answered))
        back.start()
        pump(client, server, sent)
        back.join()
        client.close()
        server.close()
        for side, data in (("client", sent), ("daemon", answered)):
            file = os.path.join(directory, f"{name}-{number}.{side}")
            with open(file + ".part", "wb") as out:
                out.write(b"".join(data))
            os.rename(file + ".part", file)

    threading.Thread(target=run).start()


listener = socket.socket(socket.AF_UNIX)
listener.bind(place)
listener.listen(16)
while True:
    serve(listener.accept()[0])
