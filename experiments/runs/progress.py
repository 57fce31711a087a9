"""Progress bars: of a training, with loss, accuracy and images per second, and of other work."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
from rich import progress
from rich.console import Console
from rich.markup import escape


class Progress:
    """A progress bar over steps. Without a terminal, a line for each epoch."""

    def __init__(self, bar: progress.Progress, task: progress.TaskID, interactive: bool) -> None:
        self._bar, self._task, self._interactive = bar, task, interactive

    def advance(self, values: Mapping[str, npt.ArrayLike]) -> None:
        """Advances by the number of values, one for each step."""
        loss, error = np.asarray(values["loss"]), np.asarray(values["error"])
        self._bar.update(
            self._task,
            advance=len(loss),
            description=f"loss {loss.mean():.4f}  accuracy {1 - error.mean():6.2%}",
        )

    def epoch_done(self, record: Mapping[str, float]) -> None:
        """Reports an epoch."""
        rate = f"{record['images_per_second']:,.0f} images/s"
        self._bar.update(self._task, rate=rate)
        if not self._interactive:
            self._bar.console.print(
                f"epoch {record['epoch']:4d}  loss {record['train_loss']:.4f}  validation error "
                f"{record['validation_error']:.2f} %  {rate}",
                highlight=False,
            )


@contextlib.contextmanager
def show(total_steps: int, done: int) -> Iterator[Progress]:
    """Shows the progress of `total_steps` steps, `done` of which are finished."""
    console = Console(stderr=True)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("compiling", total=total_steps, completed=done, rate="")
        yield Progress(bar, task, console.is_terminal)


@contextlib.contextmanager
def count(description: str, total: int) -> Iterator[Callable[[], None]]:
    """Shows how many of `total` items are done. Without a terminal, one line at the start.

    Yields:
        A function to call after each item.
    """
    console = Console(stderr=True)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    if not console.is_terminal:
        console.print(f"{description}: {total:,}", highlight=False, markup=False, soft_wrap=True)
    with progress.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(escape(description), total=total)
        yield functools.partial(bar.advance, task)
