"""Opens this pack in a real browser: templates, a run of the digits demonstration, help pages."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
    import support.packages  # noqa: F401
from mmd_tests.support import venvs
from mmd_tests.support.engine import Engine
from mmd_tests.support.launcher import ABOUT as ENGINE
from mmd_tests.support.launcher import add_comfyui, engine_or_exit, go_on

HERE = Path(__file__).absolute().parent

NEEDS = ("playwright>=1.50,<2",)  # the client alone; it brings no browser
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ABOUT = f"""\
It needs Chromium or Chrome: the one that CHROMIUM names, else one on the PATH. On Debian and
Ubuntu: apt install chromium

{ENGINE}"""


def find_browser() -> str | None:
    """The Chromium to use, or None."""
    named = os.environ.get("CHROMIUM")
    found = (shutil.which(name) for name in ((named,) if named else BROWSERS))
    return next(filter(None, found), None)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        usage="python tests/browser/run.py [options]",
        description=__doc__,
        epilog=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    folder = Path("browser_output")
    add("--screenshots", type=Path, metavar="FOLDER", default=folder, help="where they go")
    names = "only these templates (parts of their names), no run and no help pages"
    add("--templates", nargs="+", metavar="NAME", help=names)
    add("--picture", type=Path, metavar="FILE", help="only take the README's picture, a JPEG")
    add("--wired", action="store_true", help="only take the pictures of wired nodes of the help")
    add("--theme", choices=("dark", "light"), default="dark", help="the colors of the page")
    add("--frontend", metavar="VERSION", help="another version of ComfyUI's page, from PyPI")
    add_comfyui(parser)
    return parser


def fetch_frontend(engine: Engine, version: str) -> Path:
    """The page of this version, fetched once into the cache."""
    folder = venvs.cache_folder() / f"frontend-{version}"
    page = folder / "comfyui_frontend_package" / "static"
    if not page.is_dir():
        wanted = f"comfyui-frontend-package=={version}"
        venvs.pip(engine.python, ["install", "--no-deps", "--target", str(folder), wanted])
    return page


def main() -> int:
    """Get a browser and ComfyUI, then run check.py with ComfyUI's Python."""
    given = make_parser().parse_args()
    browser = find_browser()
    if browser is None:
        sys.exit("There is no Chromium: install one, or set CHROMIUM to its program.")
    engine = engine_or_exit(given.comfyui, NEEDS)
    try:
        page = fetch_frontend(engine, given.frontend) if given.frontend else None
    except (venvs.EngineError, OSError) as error:
        sys.exit(str(error))
    told = {
        "engine": {key: str(value) for key, value in asdict(engine).items()},
        "browser": browser,
        "screenshots": str(given.screenshots.absolute()),
        "templates": given.templates,
        "picture": given.picture and str(given.picture.absolute()),
        "wired": given.wired,
        "theme": given.theme,
        "page": page and str(page),
    }
    return go_on(engine, [HERE / "check.py", json.dumps(told)])


if __name__ == "__main__":
    sys.exit(main())
