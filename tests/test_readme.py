"""What the README says to type must be accepted: commands, options, configs, links, names in the tree."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from taming.cli import split_dotlist
from taming.config import load_config
from taming.training import get_parser

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
LAUNCHERS = ("python", "torchrun", "streamlit", "srun")


def commands():
    """The command lines of all bash blocks, as words from the script on; `&&` begins another one."""
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"<[^>]*>", "NAME", line), comments=True)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                command, words = words[:end], words[end + 1 :]
                scripts = [index for index, word in enumerate(command) if word.endswith(".py")]
                if scripts and command[0] in LAUNCHERS:
                    yield command[scripts[0] :]


COMMANDS = list(commands())


def test_the_readme_names_commands():
    scripts = {command[0] for command in COMMANDS}
    assert {"main.py", "scripts/sample_fast.py", "scripts/sample_conditional.py", "scripts/make_samples.py"} <= scripts
    assert len(COMMANDS) > 40


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_is_accepted(words):
    script, *arguments = words
    arguments = [word for word in arguments if word not in ("--", "...")]
    assert (ROOT / script).is_file()
    if script == "main.py":
        parser = get_parser()
    else:
        parser = importlib.import_module(script.removesuffix(".py").replace("/", ".")).get_parser()
    if script == "scripts/compare_reconstructions.py":  # NAME=RUN is a value of --models
        parser.parse_args(arguments)
    else:
        split_dotlist(parser, arguments)
    for config in (word for word in arguments if word.startswith("configs/")):
        assert load_config([ROOT / config])


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert missing == []


def test_scripts_are_all_in_the_tree():
    tree = README[README.index("## The tree") :]
    missing = [path.name for path in (ROOT / "scripts").glob("*.py") if path.name not in tree]
    assert missing == []
