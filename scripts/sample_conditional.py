"""A page in the browser to sample a conditional transformer.

    streamlit run scripts/sample_conditional.py -- -r logs/<run>

shows examples of the run's data, samples them while you watch, completes images, takes uploads, and saves animations.
`data={...}` replaces the data together with --ignore_base_data; other overrides `section.key=value` may be added.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from taming.cli import add_device_options, run_command, select_device, split_dotlist  # noqa: E402
from taming.config import COMMAND_LINE, ConfigError  # noqa: E402
from taming.runs import resolve_run  # noqa: E402
from taming.sampling.commands import add_run_options, add_weights_option, load_configs  # noqa: E402


class Parser(argparse.ArgumentParser):
    """A page cannot exit: mistakes are raised."""

    def error(self, message: str) -> None:
        raise ConfigError(f"{COMMAND_LINE}: {message}")


def get_parser() -> argparse.ArgumentParser:
    parser = Parser(
        add_help=not is_served(),  # which would exit
        description="Sample a conditional transformer in the browser.",
        usage="streamlit run scripts/sample_conditional.py -- [options] [section.key=value ...]",
        epilog="Config overrides such as data.params.validation.params.size=256 may be added.",
    )
    add_run_options(parser)
    add_weights_option(parser)
    add_device_options(parser)
    return parser


def is_served() -> bool:
    """Whether Streamlit runs this file."""
    runtime = sys.modules.get("streamlit.runtime")
    return runtime is not None and runtime.exists()


def main(argv: Sequence[str] | None = None) -> None:
    if not is_served():
        split_dotlist(get_parser(), argv)
        if importlib.util.find_spec("streamlit") is None:
            raise ImportError("the demo needs a package: pip install 'taming-transformers[app]' (streamlit)")
        start = "streamlit run scripts/sample_conditional.py -- -r logs/<run>"
        raise ValueError(f"this is a page, not a command; start it with: {start}")
    from taming.demo import page  # which needs Streamlit

    page.begin()
    with page.shown_errors():
        options, overrides = split_dotlist(get_parser(), argv)
        run = resolve_run(options.resume) if options.resume else None
        config = load_configs(options, run, overrides)
        device = select_device(options.device)
        page.show(page.Source(config, run, device, options.precision, options.trained_weights))


if __name__ == "__main__":
    status = run_command(main)
    if not is_served():  # a server goes on
        sys.exit(status)
