"""The demo's page as Streamlit runs it, without a browser: what tests press, fill in and upload."""

import importlib.util
import mimetypes
from io import BytesIO
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "sample_conditional.py"


def module(name):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def labelled(elements, label):
    """The only one of `elements` with this label."""
    (found,) = [element for element in elements if element.label == label]
    return found


def press_sample(page):
    """Sample, which must succeed; the result."""
    labelled(page.button, "Sample").click().run()
    assert not page.exception and not page.error, [error.value for error in [*page.exception, *page.error]]
    return page.session_state["result"]


def png(array):
    """The content of a PNG file."""
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def shown(elements):
    """The texts of messages as they are read."""
    return [element.value.replace("\\", "") for element in elements]


def upload(page, label, name=None, content=None):
    """Put a file into an uploader, or take it away."""
    value = None if name is None else (name, content, mimetypes.guess_type(name)[0])
    labelled(page.file_uploader, label).set_value(value).run()
