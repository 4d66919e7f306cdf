"""What the commands' parsers share: how a command is added, and the flags that several have."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Group = argparse._SubParsersAction[argparse.ArgumentParser]


def command(
    groups: Group, name: str, call: str, help_text: str, example: str = ""
) -> argparse.ArgumentParser:
    """Add a command; ``call`` is ``module:function`` below ``cli``, taking the parsed arguments."""
    parser = groups.add_parser(
        name,
        help=help_text,
        description=help_text[0].upper() + help_text[1:] + ".",
        epilog=f"example:\n  {example}" if example else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(call=call)
    return parser


def model_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", "-m", metavar="NAME",
        help="registered name, folder, hub name, langchain:PROVIDER/NAME or scripted:FILE",
    )  # fmt: skip
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], help="where to compute")
    formats = ["auto", "float32", "bfloat16", "float16", "int8"]
    parser.add_argument("--dtype", choices=formats, help="number format")


def best_of_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--best-of", type=int, default=1, metavar="N",
        help="write N candidates a turn and take the best, by the value head or the surest (default: 1)",
    )  # fmt: skip


def json_flag(parser: argparse.ArgumentParser, again: bool = False) -> None:
    """``again``: the command above has the flag too, and what was said there stands."""
    default = argparse.SUPPRESS if again else False
    parser.add_argument("--json", action="store_true", default=default, help="print JSON, one object a line")
