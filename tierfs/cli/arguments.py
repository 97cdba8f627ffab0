"""Argument parsers: argparse, with errors of ours, and flags made from the table of options."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tierfs.cli.mount_options import parse_mount_options
from tierfs.config import Config, default_text
from tierfs.errors import ConfigError
from tierfs.options import (
    ARGV,
    BOOLEAN,
    GROUPS,
    OPTIONS,
    POSITIONAL,
    SECRETS,
    SECRETS_HINT,
    Option,
)

#: Option values land in the namespace under this prefix, apart from a command's own.
_PREFIX = "option_"


class Parser(argparse.ArgumentParser):
    """argparse that raises ConfigError, takes ``_`` for ``-``, and names the nearest flag."""

    def __init__(self, command: str, description: str, examples: str = "") -> None:
        super().__init__(
            prog=f"tierfs {command}",
            description=description,
            epilog="examples:\n" + examples if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}", message, f"see {self.prog} --help")

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse all *arguments* or raise ConfigError."""
        result, rest = self.parse_known_args([_dashes(word) for word in arguments])
        if rest:
            self._refuse(rest)
        return result

    def _refuse(self, rest: list[str]) -> NoReturn:
        word = rest[0]
        if not word.startswith("-"):
            self.error(f"unexpected argument {word}")
        flag = word.partition("=")[0]
        if flag.startswith("--"):
            known = [key.removeprefix("--") for key in self._option_string_actions]
            near = difflib.get_close_matches(flag.removeprefix("--"), known, n=1, cutoff=0.6)
            if not near and SECRETS.search(flag.lower()):
                raise ConfigError("unknown option", flag, SECRETS_HINT)
            if near:
                raise ConfigError("unknown option", flag, f"did you mean --{near[0]}?")
        raise ConfigError("unknown option", flag, f"see {self.prog} --help")


def _dashes(word: str) -> str:
    """``--cache_size=1G`` as ``--cache-size=1G``; values are left alone."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def add_options(parser: argparse.ArgumentParser, names: Iterable[str] | None = None) -> None:
    """Add the flags of *names* (all by default), ``-o`` and ``--config`` to *parser*."""
    chosen = set(OPTIONS if names is None else names)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="read options from this TOML file first"
    )
    parser.add_argument(
        "-o",
        dest="mount_options",
        action="append",
        default=[],
        metavar="OPT,...",
        help="options as mount(8) takes them, cache_size=800G,ro",
    )
    for group, title in GROUPS.items():
        section = parser.add_argument_group(title.lower())
        for option in OPTIONS.values():
            if option.group == group and option.name in chosen and option.name not in POSITIONAL:
                _add(section, option)


def _add(section: argparse._ArgumentGroup, option: Option) -> None:
    help_text = option.help.replace("`", "").replace("%", "%%")
    default = default_text(option).replace("%", "%%")
    destination = _PREFIX + option.name
    shown = f"{help_text} [{default}]"
    if option.kind is BOOLEAN:
        section.add_argument(
            option.flag, dest=destination, action="store_const", const="true", help=shown
        )
        section.add_argument(
            "--no-" + option.flag.removeprefix("--"),
            dest=destination,
            action="store_const",
            const="false",
            help=argparse.SUPPRESS,
        )
    elif option.kind is ARGV:
        # Only for the error that says where it belongs.
        section.add_argument(option.flag, dest=destination, help=argparse.SUPPRESS)
    elif option.kind.several:
        section.add_argument(
            option.flag, dest=destination, metavar=option.kind.name, action="append", help=shown
        )
    else:
        section.add_argument(option.flag, dest=destination, metavar=option.kind.name, help=shown)


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The unparsed values of the flags that were given, by option name; of those that may be given
    several times, lists."""
    values: dict[str, Any] = vars(arguments)
    return {
        name.removeprefix(_PREFIX): value
        for name, value in values.items()
        if name.startswith(_PREFIX) and value is not None
    }


def assemble(arguments: argparse.Namespace, positional: dict[str, str | None]) -> Config:
    """The configuration that *arguments* of a parser with `add_options` describe."""
    options = parse_mount_options(arguments.mount_options)
    cli = given_options(arguments)
    cli |= {name: text for name, text in positional.items() if text is not None}
    return Config.assemble(
        cli=cli,
        mount_options=options.values,
        file=arguments.config or options.config,
        security=options.security,
    )


def add_runtime_dir(parser: argparse.ArgumentParser) -> None:
    """``--runtime-dir`` for commands that talk to a mount which was made with one."""
    parser.add_argument(
        "--runtime-dir",
        type=lambda text: Path(text).resolve(),
        metavar="PATH",
        help="where the mount keeps its socket, if it was mounted with --runtime-dir",
    )
