"""The directive `command`: the flags of a command, read from its parser.

```{command} python -m experiments.train
experiments.settings.config:Config
```
"""

import argparse
import importlib
import re
import warnings
from typing import ClassVar

import tyro
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a dataclass of options, given as `module:class`."""
    module, _, attribute = name.partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return tyro.extras.get_parser(tyro.conf.OmitArgPrefixes[kind])


def spelling(action: argparse.Action) -> str:
    """A flag, or a positional argument, and its values."""
    metavar = action.metavar or ""
    values = " ".join(metavar) if isinstance(metavar, tuple) else str(metavar)
    flags = [flag for flag in action.option_strings if flag.startswith("--")]
    return f"{', '.join(flags)} {values}".strip()


def help_text(action: argparse.Action) -> str:
    """The help of a flag on one line."""
    return re.sub(r"\s+", " ", (action.help or "").replace("%%", "%")).strip()


def marked_flags(text: str) -> list[nodes.Node]:
    """Text in which flags are literals."""
    parts = re.split(r"(--[a-z][a-z-]*)", text)
    return [nodes.literal("", part) if i % 2 else nodes.Text(part) for i, part in enumerate(parts)]


class Command(SphinxDirective):
    """Lists the flags of a command by group, with their values, defaults and help."""

    has_content = True
    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar = {}

    def run(self) -> list[nodes.Node]:
        """Returns the usage, and a definition list for each group of flags."""
        usage = nodes.literal_block("", self.arguments[0])
        usage["language"] = "console"
        found: list[nodes.Node] = [usage]
        for group in parser_of(self.content[0].strip())._action_groups:
            actions = [each for each in group._group_actions if "--help" not in each.option_strings]
            if actions:
                found += self._group(group.title or "", group.description or "", actions)
        return found

    def _group(
        self, title: str, description: str, actions: list[argparse.Action]
    ) -> list[nodes.Node]:
        text = description if title != "options" else ""
        head = [nodes.paragraph("", "", nodes.strong("", text))] if text else []
        items = [self._item(action) for action in actions]
        return [*head, nodes.definition_list("", *items, classes=["flags"])]

    def _item(self, action: argparse.Action) -> nodes.definition_list_item:
        return nodes.definition_list_item(
            "",
            nodes.term("", "", nodes.literal("", spelling(action))),
            nodes.definition("", nodes.paragraph("", "", *marked_flags(help_text(action)))),
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("command", Command)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
