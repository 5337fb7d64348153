"""Code that is broken on purpose, to see that a test notices."""

import contextlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from unittest.mock import patch


@contextlib.contextmanager
def broken(owner, name: str, right: str, wrong: str) -> Iterator[None]:
    """A function or method of `owner` with the text `wrong` in place of `right`.

    Arguments:
        owner: A module or a class.
        name: The function's name in it.
    """
    function = inspect.unwrap(getattr(owner, name))
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(right) == 1, f"{name} has changed: write a new way to break it"
    made: dict = {}
    code = compile(source.replace(right, wrong), f"<broken {name}>", "exec")
    exec(code, sys.modules[function.__module__].__dict__, made)  # noqa: S102
    with patch.object(owner, name, made[name]):
        yield
