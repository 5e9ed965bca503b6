"""The command line: ``kernelscope COMMAND``, with ``--json`` on each.

Exit codes: 0, the command did what was asked; 1, a check failed; 2, it could not be done, and one sentence on standard
error says why. A script that ``record`` runs gives its own. Nothing heavy is imported before the command is known.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

from . import __version__
from .commands import NAMES, Answer
from .errors import KernelscopeError
from .text import escaped, shown

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


class _Usage(Exception):
    """The line cannot be understood."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _Usage(f"{message[:1].upper()}{message[1:]}. {_usage(self)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command, and returns its exit code.

    Args:
        argv: The words after ``kernelscope``; those of the process if they are not given.

    Example:
        >>> main(["--version"])
        kernelscope 0.1.0
        0
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--json"]:  # before the command it means the same
        words = [*words[1:2], "--json", *words[2:]]
    options = argparse.Namespace(json="--json" in words)
    try:
        options = _options(words)
        answer = _answer(options)
        text = _json(answer.data, indent=2) if options.json else shown(answer.text, keep="\n\t")
        if text:
            print(text)
        sys.stdout.flush()
        return answer.code if answer.code is not None else DONE if answer.ok else FAILED
    except (_Usage, KernelscopeError) as error:
        if options.json:
            print(_json({"error": str(error), "kind": type(error).__name__.strip("_")}))
        print(shown(f"kernelscope: {error}", keep="\n\t"), file=sys.stderr)
        return REFUSED
    except SystemExit as leaving:  # argparse has printed its help
        return leaving.code if isinstance(leaving.code, int) else DONE
    except KeyboardInterrupt:
        print("kernelscope: stopped; files that were finished before are kept.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (as in "| head"); python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _json(data: Any, indent: int | None = None) -> str:
    return escaped(json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False))


def _answer(options: argparse.Namespace) -> Answer:
    if options.version:
        return Answer(f"kernelscope {__version__}", {"version": __version__})
    if options.command is None:
        return Answer(_parsers()[0].format_help().rstrip(), {"commands": list(NAMES)})
    return import_module(f".commands.{options.command}", __package__).run(options)


def _options(words: list[str]) -> argparse.Namespace:
    parser, commands = _parsers()
    if words and not words[0].startswith("-") and words[0] not in commands:
        raise _Usage(
            f"There is no command {words[0]!r}.{_did_you_mean(words[0], list(commands))} "
            f"The commands are {', '.join(commands)}."
        )
    options, rest = parser.parse_known_args(words)
    if options.command is None:
        return argparse.Namespace(command=None, json="--json" in words, version=options.version)
    if rest:
        known = re.findall(r"(?<!\w)--?[a-z][a-z-]*", commands[options.command].format_help())
        raise _Usage(
            f"{options.command} does not take {rest[0]!r}.{_did_you_mean(rest[0], known)} "
            f"{_usage(commands[options.command])}"
        )
    return options


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(
        prog="kernelscope",
        allow_abbrev=False,
        description="Record a training run, write the network as its sum of kernel machines, and ask the terms why.",
    )
    parser.add_argument("--version", action="store_true", help="say which version this is")
    inner = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    commands = {}
    for name in NAMES:
        module = import_module(f".commands.{name}", __package__)
        commands[name] = inner.add_parser(name, help=module.HELP, description=module.HELP, allow_abbrev=False)
        commands[name].add_argument("--json", action="store_true", help="answer in JSON")
        module.arguments(commands[name])
    return parser, commands


def _usage(parser: argparse.ArgumentParser) -> str:
    """How a command is called, in one line."""
    return "Usage:" + " ".join(parser.format_usage().split()).removeprefix("usage:")


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    near = get_close_matches(word.split("=")[0], known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
