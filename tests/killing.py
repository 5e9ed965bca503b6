"""Processes to be killed, forked by one that has imported torch already and runs no threads of pytest.

A file of tests is also the program of its server: it starts ``Server(__file__, folder)``, and run as a script it calls
:func:`serve` with what its processes may do: functions of plain values, and last of the one that says a line.
"""

import json
import os
import sys
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen

from kernelscope.selftest.traps import Child

ROOT = Path(__file__).resolve().parents[1]


class Server(AbstractContextManager):
    """Forks processes, which say their lines into files in ``folder``."""

    def __init__(self, file, folder):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = Popen([sys.executable, file, folder], stdin=PIPE, stdout=PIPE, text=True, env=environment)

    def start(self, job, *arguments):
        return Forked(self, self.ask("start", job.__name__, *arguments))

    def ask(self, *question):
        self.process.stdin.write(json.dumps(question, default=str) + "\n")
        self.process.stdin.flush()
        answer, wrong = json.loads(self.process.stdout.readline())
        assert not wrong, wrong
        return answer

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(30)


class Forked:
    """A :class:`Child` of the server."""

    def __init__(self, server, place):
        self.server, self.place = server, place

    def until(self, word="", count=1):
        """Its lines, once it has said ``count`` that begin so."""
        self.server.ask("until", self.place, word, count, 60.0)
        said = self.server.ask("said", self.place)
        assert sum(line.startswith(word) for line in said) >= count, f"the process ended, and had said {said}"
        return said

    def lives(self):
        return self.server.ask("lives", self.place)

    def kill(self):
        return self.server.ask("kill", self.place)

    def end(self):
        return self.server.ask("end", self.place)


def serve(*jobs):
    known, folder, children = {job.__name__: job for job in jobs}, Path(sys.argv[1]), []
    for line in sys.stdin:
        word, which, *arguments = json.loads(line)
        answer = wrong = None
        try:
            if word == "start":
                answer = len(children)
                children.append(Child(folder / f"log-{answer}", partial(known[which], *arguments)))
            else:
                answer = getattr(children[which], word)(*arguments)
        except (RuntimeError, TimeoutError) as error:
            wrong = str(error)
        sys.stdout.write(json.dumps([answer, wrong]) + "\n")
        sys.stdout.flush()
