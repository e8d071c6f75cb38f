"""Entry point of `jang`: finds the command, and turns whatever goes wrong into one line.

Imports only click and the standard library; a command's module is imported when it runs.
"""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from typing import Any

import click

from jang_tools.cli.ui import log_level, print_error, print_hint
from jang_tools.errors import CancelledError, JangError

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130

# The summaries stand here so that `jang --help` imports no command; a test compares them.
COMMANDS = {
    "convert": "Convert a Hugging Face model to a JANG directory.",
    "finalize": "Check the parts of a planned conversion, and make the directory of them.",
    "run": "Generate text: a chat or a completion.",
    "plan": "Show which widths a conversion would choose, from headers alone.",
    "inspect": "Show what a model directory holds.",
    "calibrate": "Collect statistics of a model's inputs on a text, and merge them.",
    "upgrade": "Write an older or foreign quantized directory as JANG v2, losing nothing.",
    "verify": "Check a model directory, its checksums and its values.",
    "eval": "Compare models with a reference: KL divergence, agreement, perplexity, tasks.",
    "compare": "Convert a model in many ways and measure all of them on one text, in one table.",
    "profiles": "List the profiles, with averages and sizes for a model.",
    "bench": "Measure prefill, decode and batches against a read-only pass.",
    "env": "Show kernel levels, threads and libraries.",
}


class LazyGroup(click.Group):
    """The commands of `COMMANDS`, each the object of that name in `jang_tools.cli.<name>`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"jang_tools.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, CancelledError) as error:
            click.echo("interrupted", err=True)
            print_hint(getattr(error, "hint", ""))
            ctx.exit(EXIT_INTERRUPTED)
        except JangError as error:
            print_error(str(error), error.hint)
            _show_traceback(ctx)
            ctx.exit(EXIT_FAILURE)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own ways to end; a reader that closed the pipe is no error
        except MemoryError:
            print_error("out of memory")
            ctx.exit(EXIT_FAILURE)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            print_error(f"{where}{error.strerror or error}")
            _show_traceback(ctx)
            ctx.exit(EXIT_FAILURE)
        except ImportError as error:
            print_error(f"cannot load {error.name or 'a library'}: {error}", "reinstall jang-tools")
            _show_traceback(ctx)
            ctx.exit(EXIT_FAILURE)
        except Exception as error:  # the last line of defence: a defect of the program, said so
            print_error(
                f"unexpected {type(error).__name__}: {error}",
                ""
                if _wants_traceback(ctx)
                else "please report this; --verbose or JANG_LOG=debug shows the traceback",
            )
            _show_traceback(ctx)
            ctx.exit(EXIT_FAILURE)


def _wants_traceback(ctx: click.Context) -> bool:
    return bool(ctx.find_root().meta.get("jang.verbose"))


def _show_traceback(ctx: click.Context) -> None:
    if _wants_traceback(ctx):
        click.echo(traceback.format_exc(), err=True, nl=False)


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    import jang_tools

    click.echo(f"jang {jang_tools.__version__}")
    ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version.",
)
def cli() -> None:
    """Convert language models to JANG, the mixed-precision MLX-affine format, check them, and run
    them on any CPU.

    A MODEL is a directory, or a Hub id as org/name or org/name@revision.
    """
    log_level()


def main() -> None:
    """The console script."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    cli(prog_name="jang")


if __name__ == "__main__":
    main()
