"""What click lacks: options of several words, as `--images a.png b.png`, and whole summaries."""

from typing import Any

import click


class Group(click.Group):
    """Commands whose summaries are shown whole, where click cuts them to the width of a line."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first sentence of each command's help."""
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None:
                paragraph = (command.help or "").split("\n\n")[0]
                rows.append((name, " ".join(paragraph.split())))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class WordsOption(click.Option):
    """An option that takes every word up to the next option; its value is a tuple."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **{**attributes, "multiple": True})


class Command(click.Command):
    """A command that may have options of several words."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write a `WordsOption` before each of its words, as click expects it."""
        names = {
            name
            for option in self.params
            if isinstance(option, WordsOption)
            for name in option.opts
        }
        words: list[str] = []
        option, is_first = "", False
        for i, word in enumerate(args):
            if word == "--":
                words += args[i:]
                break
            if word.startswith("-") and word != "-":
                option, is_first = (word, True) if word in names else ("", False)
            elif option and not is_first:
                words.append(option)
            else:
                is_first = False
            words.append(word)
        return super().parse_args(ctx, words)
