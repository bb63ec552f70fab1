"""Run the worker of a module on two processes that are forks of this one: `forked.py MODULE FOLDER`.

What a launcher tells its processes in the environment, they are told.
"""

import importlib
import os
import socket
import sys


def main(module, folder):
    worker, forks = importlib.import_module(module), []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    for rank in range(2):
        forks.append(os.fork())
        if not forks[-1]:
            told = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            os.environ.update(told | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
            sys.argv = [worker.__file__, folder]
            return worker.main()
    sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]) != 0 for fork in forks))


if __name__ == "__main__":
    main(*sys.argv[1:])
